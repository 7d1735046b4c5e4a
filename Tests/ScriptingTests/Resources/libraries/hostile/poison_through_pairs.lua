-- expect: read-only
-- Case 13: what pairs hands out is the proxy, not the library.
local _, library = pairs(string)
library.upper = nil
