-- expect: result too large
-- Small in memory, large as text.
local long, piece = {}, ("x"):rep(1 << 20)
for i = 1, 20 do long[i] = piece end
table.concat(long)
