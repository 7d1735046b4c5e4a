-- expect: budget exceeded
-- Polynomial, on a long subject: the work counts, not one attempt.
string.find(("a"):rep(200000), "a*b")
