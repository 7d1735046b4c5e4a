-- expect: JSON text too large
json.decode(("x"):rep(9 << 20) .. ("x"):rep(8 << 20))
