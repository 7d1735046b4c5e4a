-- expect: budget exceeded
-- Case 9.
table.concat(setmetatable({}, {__len = function() return 1 << 23 end, __index = function() return "" end}))
