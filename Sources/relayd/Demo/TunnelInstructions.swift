/// The six functions of the tunnel (scripts/tunnel), as `relayd demo` sends them one by one with `add instruction`.
/// They are the text of scripts/tunnel/NAME.lua.
enum TunnelInstructions {
    /// In the order in which they are added. Only `initialize` is not public.
    static let all: [(name: String, body: String, isPublic: Bool)] = [
        ("initialize", initialize, false),
        ("create server credential", createServerCredential, true),
        ("install server", installServer, true),
        ("connect to server", connectToServer, true),
        ("forward to client", forwardToClient, true),
        ("forward to server", forwardToServer, true),
    ]

    static let initialize = #"""
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
        """#

    static let createServerCredential = #"""
        function(conn)
          local serverID, credential = serverCount, relay.randomToken(16)
          serverCount = serverCount + 1
          serverCredentials[serverID] = credential
          conn:send(serverID .. " " .. credential)
          return "created server credential", { server = serverID, credential = credential }
        end
        """#

    static let installServer = #"""
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
        """#

    static let connectToServer = #"""
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
        """#

    static let forwardToClient = #"""
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
        """#

    static let forwardToServer = #"""
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
        """#
}
