-- expect: __gc
-- Case 11.
setmetatable({}, {__gc = function() while true do end end})
