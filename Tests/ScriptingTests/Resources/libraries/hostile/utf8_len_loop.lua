-- expect: budget exceeded
local s = ("x"):rep(300000)
while true do utf8.len(s) end
