-- expect: result too large
-- Case 7.
string.pack("c1073741824", "x")
