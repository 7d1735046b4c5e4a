-- expect: result too large
json.encode(("x"):rep(9 << 20) .. ("x"):rep(8 << 20))
