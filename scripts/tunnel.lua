-- A tunnel between programs that cannot reach each other: servers install themselves here, clients connect to them by
-- server id and port, and what one side forwards is sent to the other.
--
-- What arrives at a server   connected:atPort:for: <channel><delimiter><port><delimiter><remote address>
--                            from:data: <channel><delimiter><data>
--                            disconnected: <channel>
--         and at a client    from:data: <server id><delimiter><data>
--                            disconnected: <channel>
--
-- Every instruction answers its caller with a message of its own: `1` for done, `0` for refused (`create server
-- credential` with the id and the credential), and a request that carries an `id` with the second value returned.
--
-- The six functions stand alone, one file each, in tunnel/: they can be sent one by one with `add instruction`. What
-- only a script can do is the hooks at the end: to initialize once, and to tell the other side when one has gone.
--
-- Globals persist between calls and are kept when this script is loaded again:
--   servers            server id -> connection
--   clients            channel -> { client = connection, server = server id }
--   serverCredentials  server id -> credential
--   serverChannels     server id -> set of channels
--   delimiter          what separates the parts of a message

local initialize = function(conn, newDelimiter)
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

relay.instruction { "initialize", public = false, summary = "Forgets all servers, clients and credentials; takes the delimiter to use from now on.", initialize }

relay.instruction {
  "create server credential",
  summary = "Makes a server id and the credential for it; sends both, separated by a blank.",
  function(conn)
    local serverID, credential = serverCount, relay.randomToken(16)
    serverCount = serverCount + 1
    serverCredentials[serverID] = credential
    conn:send(serverID .. " " .. credential)
    return "created server credential", { server = serverID, credential = credential }
  end
}

relay.instruction {
  "install server",
  summary = "Installs the sender as the server of an id, if the credential is the id's.",
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
}

relay.instruction {
  "connect to server",
  summary = "Opens a channel from the sender to a port of a server, and tells the server.",
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
}

relay.instruction {
  "forward to client",
  summary = "Sends data to the client of a channel; only the channel's server may.",
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
}

relay.instruction {
  "forward to server",
  summary = "Sends data to the server of one of the sender's own channels.",
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
}

-- The first load initializes; a later one finds the tables and keeps them.
relay.on("reload", function()
  if servers == nil then initialize() end
end)

-- Whoever is gone is forgotten, and its peers are told.
relay.on("close", function(conn)
  for channel, serverID in pairs(conn.data.channels or {}) do
    if clients[channel] and clients[channel].client == conn then
      clients[channel] = nil
      if serverChannels[serverID] then serverChannels[serverID][channel] = nil end
      local server = servers[serverID]
      if server then server:send("disconnected: " .. channel) end
    end
  end
  for serverID in pairs(conn.data.servers or {}) do
    if servers[serverID] == conn then
      servers[serverID] = nil
      for channel in pairs(serverChannels[serverID]) do
        local entry = clients[channel]
        clients[channel] = nil
        if entry then entry.client:send("disconnected: " .. channel) end
      end
      serverChannels[serverID] = {}
    end
  end
end)
