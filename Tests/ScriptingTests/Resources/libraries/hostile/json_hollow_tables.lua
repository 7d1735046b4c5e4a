-- expect: budget exceeded
-- Many references to one table that once was large: each traversal goes through its empty slots.
local hollow, list = {}, {}
for i = 1, 20000 do hollow["k" .. i] = true end
for key in pairs(hollow) do hollow[key] = nil end
for i = 1, 50000 do list[i] = hollow end
while true do json.encode(list) end
