-- expect: budget exceeded
assert(load(function() while true do end end))
