-- expect: binary
-- Case 14.
assert(load("\27Lua\x54\0\x19\x93\r\n"))
