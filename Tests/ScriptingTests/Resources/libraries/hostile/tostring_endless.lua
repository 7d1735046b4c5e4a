-- expect: budget exceeded
-- Case 12.
string.format("%s", setmetatable({}, {__tostring = function() while true do end end}))
