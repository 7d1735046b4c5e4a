function(conn, channel, data)
  -- A client names its channel, or the server that it is connected to.
  local entry = clients[channel]
  if not entry or entry.client ~= conn then
    entry = nil
    for own, serverID in pairs(conn.data.channels or {}) do
      if serverID == channel and clients[own] and clients[own].client == conn then
        entry, channel = clients[own], own
        break
      end
    end
  end
  local server = entry and servers[entry.server]
  if not server or not server:isOpen() then
    conn:send("0")
    return "no such server channel", { forwarded = false, reason = "no such server channel" }
  end
  server:send("from:data: " .. channel .. delimiter .. data)
  conn:send("1")
  return "sent data to server", { forwarded = true, channel = channel }
end
