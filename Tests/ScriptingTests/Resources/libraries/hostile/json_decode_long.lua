-- expect: budget exceeded
local text = "[" .. ("1,"):rep(100000) .. "1]"
while true do json.decode(text) end
