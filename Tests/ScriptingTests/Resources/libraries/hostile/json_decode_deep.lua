-- expect: too many nested
json.decode(("["):rep(10000))
