function(conn)
  local serverID, credential = serverCount, relay.randomToken(16)
  serverCount = serverCount + 1
  serverCredentials[serverID] = credential
  conn:send(serverID .. " " .. credential)
  return "created server credential", { server = serverID, credential = credential }
end
