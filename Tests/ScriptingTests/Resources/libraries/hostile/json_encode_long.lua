-- expect: budget exceeded
-- A table that names one string many times: small in memory, large as text.
local text, list = ("x"):rep(100000), {}
for i = 1, 10000 do list[i] = text end
while true do json.encode(list) end
