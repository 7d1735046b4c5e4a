-- expect: budget exceeded
table.insert(setmetatable({}, {__len = function() return 1 << 23 end}), 1, "x")
