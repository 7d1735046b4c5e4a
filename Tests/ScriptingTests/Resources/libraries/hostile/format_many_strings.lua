-- expect: result too large
-- A result far larger than its parts.
local piece = ("x"):rep(1 << 20)
string.format(("%s"):rep(17), piece, piece, piece, piece, piece, piece, piece, piece, piece, piece, piece, piece, piece,
  piece, piece, piece, piece)
