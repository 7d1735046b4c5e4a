function(conn, channel, data)
  local entry = clients[channel]
  if not entry or servers[entry.server] ~= conn or not entry.client:isOpen() then
    conn:send("0")
    return "no such client channel", { forwarded = false, reason = "no such client channel" }
  end
  entry.client:send("from:data: " .. entry.server .. delimiter .. data)
  conn:send("1")
  return "sent data to client", { forwarded = true, channel = channel }
end
