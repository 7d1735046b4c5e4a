-- expect: pattern too complex
-- Case 6: exponential in 26 bytes.
local subject = ("a"):rep(26)
string.find(subject, ("a*"):rep(26) .. "b")
