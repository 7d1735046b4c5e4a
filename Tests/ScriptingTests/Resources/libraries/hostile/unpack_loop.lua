-- expect: budget exceeded
-- Case 10.
while true do select("#", table.unpack({}, 1, 200000)) end
