-- expect: pattern too complex
-- Case 6, in match.
string.match(("a"):rep(26), ("a?"):rep(26) .. ("a"):rep(27))
