-- expect: read-only
-- Case 13.
rawset(table, "concat", nil)
