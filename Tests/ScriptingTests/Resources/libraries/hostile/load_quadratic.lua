-- expect: budget exceeded
-- The compiler has no hook, and a row of operators costs it quadratic time.
assert(load("return " .. ("a and "):rep(43000) .. "a"))
