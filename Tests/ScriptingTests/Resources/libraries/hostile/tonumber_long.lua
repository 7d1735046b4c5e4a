-- expect: budget exceeded
local digits = ("1"):rep(4 << 20)
while true do tonumber(digits, 36) end
