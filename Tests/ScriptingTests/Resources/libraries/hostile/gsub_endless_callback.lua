-- expect: budget exceeded
-- Case 12.
string.gsub("abc", ".", function() while true do end end)
