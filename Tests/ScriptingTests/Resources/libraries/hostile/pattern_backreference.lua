-- expect: budget exceeded
string.find(("a"):rep(200000), "(a*)b%1")
