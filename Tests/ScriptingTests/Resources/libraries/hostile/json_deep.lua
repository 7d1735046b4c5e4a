-- expect: nested deeper than 128
local deep = {}
for _ = 1, 10000 do deep = {deep} end
json.encode(deep)
