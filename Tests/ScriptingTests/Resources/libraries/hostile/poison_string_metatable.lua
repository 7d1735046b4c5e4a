-- expect: attempt to index a boolean value
-- Case 13.
getmetatable("").__index = nil
