-- expect: result too large
-- Case 7.
local s = string.rep("x", 1 << 40)
