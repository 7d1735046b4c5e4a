-- expect: budget exceeded
local s = "a" .. ("\x80"):rep(300000)
while true do utf8.offset(s, 2) end
