function(conn, serverID, port)
  local server = servers[serverID]
  if not server or not server:isOpen() then
    conn:send("0")
    return "server not connected", { connected = false, reason = "server not connected" }
  end
  if math.type(port) ~= "integer" or port < 0 or port > 65535 then
    conn:send("0")
    return "bad port", { connected = false, reason = "the port must be an integer from 0 to 65535" }
  end
  local channel = channelCount
  channelCount = channelCount + 1
  clients[channel] = { client = conn, server = serverID }
  serverChannels[serverID][channel] = true
  conn.data.channels = conn.data.channels or {}
  conn.data.channels[channel] = serverID
  server:send("connected:atPort:for: " .. channel .. delimiter .. port .. delimiter .. conn.remoteAddress)
  conn:send("1")
  return "connected client", { connected = true, channel = channel, server = serverID, port = port }
end
