-- expect: more than 8192 jumps in one chunk
assert(load("while true do " .. ("break; "):rep(9000) .. "end"))
