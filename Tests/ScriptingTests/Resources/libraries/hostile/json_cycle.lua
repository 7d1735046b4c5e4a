-- expect: nested deeper than 128
local a, b = {}, {}
a.b, b.a = b, a
json.encode(a)
