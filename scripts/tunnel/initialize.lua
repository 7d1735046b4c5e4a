function(conn, newDelimiter)
  if newDelimiter ~= nil and (type(newDelimiter) ~= "string" or newDelimiter == "") then
    error("the delimiter must be a string that is not empty", 0)
  end
  for serverID in pairs(servers or {}) do relay.uninstall(serverID) end
  servers, clients, serverCredentials, serverChannels = {}, {}, {}, {}
  delimiter = newDelimiter or "\u{1F}"
  serverCount = 0
  -- Channel numbers go on, so that an old one never means somebody new.
  channelCount = channelCount or 0
  return "initialized tunnel relay"
end
