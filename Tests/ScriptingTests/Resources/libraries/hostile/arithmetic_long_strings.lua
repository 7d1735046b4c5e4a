-- expect: budget exceeded
local digits = ("1"):rep(4 << 20)
while true do local _ = digits + 1 end
