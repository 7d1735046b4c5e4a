-- expect: budget exceeded
-- Cases 2 and 6: swallowing the error does not buy more time.
while true do pcall(string.find, ("a"):rep(26), ("a*"):rep(26) .. "b") end
