-- expect: too many results
-- Case 9.
table.unpack({}, 1, 1 << 30)
