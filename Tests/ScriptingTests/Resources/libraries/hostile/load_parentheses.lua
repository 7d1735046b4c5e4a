-- expect: overflow
-- Case 16.
assert(load("return " .. ("("):rep(100000) .. "1" .. (")"):rep(100000)))
