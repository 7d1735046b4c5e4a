-- expect: budget exceeded
-- Case 9.
table.sort(setmetatable({}, {__len = function() return 1 << 23 end, __index = function(_, i) return -i end}))
