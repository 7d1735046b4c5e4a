-- expect: pattern too complex
-- Case 6, in gmatch.
for _ in string.gmatch(("x"):rep(26), ("x*"):rep(20) .. "%d") do end
