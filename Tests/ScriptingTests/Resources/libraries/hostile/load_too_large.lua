-- expect: chunk too large
assert(load(("x = 1 "):rep(50000)))
