function(conn, serverID, credential)
  local expected = serverCredentials[serverID]
  if type(credential) ~= "string" or not expected or not relay.equal(expected, credential) then
    conn:send("0")
    return "bad credential", { installed = false, reason = "bad credential" }
  end
  -- Whoever held the id before is closed; its channels go on with the new connection.
  relay.install(serverID, conn, { replace = true })
  servers[serverID] = conn
  serverChannels[serverID] = serverChannels[serverID] or {}
  conn.data.servers = conn.data.servers or {}
  conn.data.servers[serverID] = true
  conn:send("1")
  return "installed server", { installed = true, server = serverID }
end
