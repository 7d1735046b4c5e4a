-- expect: budget exceeded
-- Case 2.
while true do pcall(error, {}) end
