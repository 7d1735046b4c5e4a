-- expect: too many local variables
-- Case 16.
local text = {}
for i = 1, 300 do text[i] = "local a" .. i end
assert(load(table.concat(text, "\n")))
