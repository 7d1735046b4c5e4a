-- Named servers for browsers, with no credentials: whoever listens under a name first is that server, and everybody may
-- connect to it. For clients of relay.v1, as relay.js is (docs/named-servers.md):
--
--   relay.listen('NAME', { through: 'listen' }, (channel) => …)      relay.connect('NAME')
--
-- A name that is taken closes the connection of the second (4409).
--
-- Globals persist between calls and are kept when this script is loaded again:
--   listeners   name -> the connection that listens under it through this script
--   watchers    connection id -> a connection that is told of servers

listeners = listeners or {}
watchers = watchers or {}

local TAKEN = 4409

relay.instruction {
  "listen",
  summary = "Makes the sender the server of a name; a name that is taken closes it (4409).",
  function(conn, name, ports)
    if conn.subprotocol ~= "relay.v1" then error("a server speaks relay.v1", 0) end
    if type(name) ~= "string" then error("the name of a server is a text", 0) end
    local done, code = relay.install(name, conn, { ports = ports })
    if not done then
      conn:close(TAKEN, code == "conflict" and "the name is taken" or "the name cannot be had: " .. code)
      return "name not free", { server = name, listening = false, reason = code }
    end
    listeners[name] = conn
    return "listening", { server = name, listening = true }
  end
}

relay.instruction {
  "stop listening",
  summary = "Gives a name of the sender's up; its channels go on.",
  function(conn, name)
    local isOwn = name ~= nil and listeners[name] == conn and relay.server(name) == conn
    if isOwn then relay.uninstall(name) end
    return "stopped listening", { server = name, listening = false, wasListening = isOwn }
  end
}

-- Who may connect: everybody to those who listen here. About all other names, those of servers at /s/NAME and of linked
-- relays among them, credentials decide, as without this script.
relay.on("connect", function(conn, name)
  if listeners[name] and relay.server(name) == listeners[name] then return true end
end)

-- Events

relay.instruction {
  "watch servers",
  summary = "Tells which servers listen here, and from now on of all that come and go: texts {\"event\", \"server\"}.",
  function(conn)
    watchers[conn.id] = conn
    local servers = {}
    for name, holder in pairs(listeners) do servers[name] = holder.id end
    return "watching servers", { servers = servers }
  end
}

relay.instruction {
  "stop watching servers",
  function(conn)
    watchers[conn.id] = nil
    return "stopped watching servers"
  end
}

local function tell(event, server)
  local text = json.encode({ event = event, server = server })
  for _, conn in pairs(watchers) do conn:send(text) end
end

relay.on("event:server.created", function(data) tell("server.created", data.server) end)

relay.on("event:server.destroyed", function(data)
  local holder = listeners[data.server]
  if holder and holder.id == data.connection then listeners[data.server] = nil end
  tell("server.destroyed", data.server)
end)

relay.on("close", function(conn) watchers[conn.id] = nil end)

-- The relay as a client

relay.instruction {
  "say to server",
  public = false,
  summary = "Sends a text to a server from the relay itself; what it answers, and the end, come as texts.",
  function(conn, name, text, port)
    local channel, code = relay.dial(name, port or 0, {
      message = function(_, data, kind)
        if kind == "text" then conn:send(json.encode({ event = "server.said", server = name, text = data })) end
      end,
      close = function(_, code, reason)
        conn:send(json.encode({ event = "server.left", server = name, code = code, reason = reason }))
      end
    })
    if not channel then return "not connected", { server = name, connected = false, reason = code } end
    channel:send(text)
    return "said to server", { server = name, connected = true, channel = channel.id }
  end
}
