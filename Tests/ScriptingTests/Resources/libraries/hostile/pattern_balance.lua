-- expect: budget exceeded
-- Each start looks through the whole rest.
string.find(("("):rep(200000), "%b()")
