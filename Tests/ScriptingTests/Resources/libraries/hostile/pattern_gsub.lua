-- expect: pattern too complex
-- Case 6, in gsub.
string.gsub(("a"):rep(26), ("a-"):rep(26) .. "b", "x")
