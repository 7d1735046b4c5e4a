-- expect: array too big
-- Case 9.
table.sort(setmetatable({}, {__len = function() return 1 << 50 end}))
