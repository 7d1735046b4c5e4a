-- expect: result too large
-- 1 KiB to the power of three.
local s = ("x"):rep(1024)
while true do s = s:gsub("x", s:sub(1, 200)) end
