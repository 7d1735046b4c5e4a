-- expect: budget exceeded
-- Case 10.
string.format(("%99.99f"):rep(20000), table.unpack(setmetatable({}, {__index = function() return 1e308 end}), 1, 20000))
