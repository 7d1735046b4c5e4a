-- expect: is reserved
-- Case 13.
_G.pairs = function() end
