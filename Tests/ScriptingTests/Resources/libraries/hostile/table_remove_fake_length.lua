-- expect: budget exceeded
-- Case 9.
table.remove(setmetatable({}, {__len = function() return 1 << 23 end}), 1)
