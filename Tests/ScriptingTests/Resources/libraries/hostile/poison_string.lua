-- expect: read-only
-- Case 13.
string.upper = function() return "poisoned" end
