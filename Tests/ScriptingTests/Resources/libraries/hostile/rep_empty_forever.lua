-- expect: budget exceeded
-- Case 7: many repetitions of nothing return at once, so it is the loop that ends.
while true do string.rep("", 1 << 31) end
