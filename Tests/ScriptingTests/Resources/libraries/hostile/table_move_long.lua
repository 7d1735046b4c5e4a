-- expect: budget exceeded
table.move({}, 1, 1 << 23, 2)
