-- expect: is reserved
-- Case 13.
rawset(_G, "pcall", print)
