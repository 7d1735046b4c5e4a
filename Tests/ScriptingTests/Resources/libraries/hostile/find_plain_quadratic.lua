-- expect: budget exceeded
-- A needle of near misses.
string.find(("a"):rep(400000), ("a"):rep(200000) .. "b", 1, true)
