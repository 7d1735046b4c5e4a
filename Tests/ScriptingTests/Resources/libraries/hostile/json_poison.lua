-- expect: read-only
json.encode = nil
