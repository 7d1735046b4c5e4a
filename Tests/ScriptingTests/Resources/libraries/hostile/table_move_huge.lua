-- expect: range too large
-- Case 9.
table.move({}, 1, 1 << 50, 2)
