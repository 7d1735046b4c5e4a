-- Channels that a script opens.

relay.instruction { "connect me", function(conn, server, port, metadata)
  local channel, code = relay.connect(conn, server, port, metadata)
  return { channel = channel, code = code }
end }
