-- expect: budget exceeded
-- Doubling by reference: 2^40 nodes in 40 tables.
local tree = {1}
for _ = 1, 40 do tree = {tree, tree} end
json.encode(tree)
