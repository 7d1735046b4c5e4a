-- One connection is fed by others: for tests of what happens when it does not read.

relay.instruction { "be fed", function(conn) fed = conn return conn.id end }
relay.instruction { "feed", function(conn, text) return fed:send(text) end }

relay.on("message", function(conn, data, kind)
  if kind == "binary" then conn:sendBinary(data) else conn:send(data) end
end)
