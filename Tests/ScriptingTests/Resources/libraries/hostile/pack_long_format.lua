-- expect: budget exceeded
string.packsize(("b"):rep(400000))
