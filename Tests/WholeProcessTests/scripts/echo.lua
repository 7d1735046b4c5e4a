relay.on("message", function(conn, data, kind)
  if kind == "binary" then conn:sendBinary(data) else conn:send(data) end
end)
