-- browser-stream-server for clients that speak mux-demux: each WebSocket carries lines, each is [stream, event, ...],
-- and the first event of a stream, "new", says in `meta` what it is for (docs/named-servers.md):
--
--   /browser-server/server/NAME                  a server; it is told the ticket of each client as data
--   /browser-server/client/NAME/ANYTHING         a client
--   /browser-server/server/NAME/client/TICKET    what the server opens for that client: from here on the two are one
--
-- A stream that cannot be had is ended. A client of a name under which somebody listens by stream-server.lua gets a
-- channel to its port 0, which the relay dials; no other servers, since nobody here shows a credential.
--
-- Globals persist between calls and are kept when this script is loaded again:
--   muxServers   name -> the stream of its server
--   muxClients   ticket -> the stream of a client whose server has not opened one for it yet

muxServers = muxServers or {}
muxClients = muxClients or {}

local PREFIX = "^/browser%-server/"
local MOST_STREAMS = 1000           -- of one connection
local MOST_WAITING = 64 * 1024      -- bytes of a client that its server has not picked up
local MOST_UNREAD = 2 * relay.config.messageBytes
local LINES_AT_ONCE = 100           -- then others have their turn

-- A stream has a conn and an id there, and is one of: a server (name, clients that wait), a client that waits (ticket,
-- server, waiting: its lines), one of a pair (peer), the client of a channel (channel).

-- Who has not read so much that a line would be missing is closed instead: the first lines of a message wait until their
-- receiver has read, those that follow in other calls do not.
local function send(conn, text)
  if conn:send(text .. "\n") == "dropped" then conn:close(4003, "what it is sent is not read") end
end

local function say(stream, event, ...) send(stream.conn, json.encode({ stream.id, event, ... })) end

local function forget(stream)
  local mux = stream.conn.data.mux
  if mux.streams[stream.id] == stream then
    mux.streams[stream.id] = nil
    mux.count = mux.count - 1
  end
  stream.isOver = true
  if stream.ticket then
    muxClients[stream.ticket] = nil
    stream.server.clients[stream] = nil
  end
end

-- Ends a stream from this side, and all that depends on it.
local function finish(stream)
  if stream.isOver then return end
  forget(stream)
  if not stream.isClosed and not stream.isEnded then say(stream, "end") end
  if not stream.isClosed then say(stream, "close") end
  if stream.peer then finish(stream.peer) end
  if stream.channel then stream.channel:close() end
  if stream.name and muxServers[stream.name] == stream then
    muxServers[stream.name] = nil
    if relay.server(stream.name) == stream.conn then relay.uninstall(stream.name) end
    for client in pairs(stream.clients) do finish(client) end
  end
end

-- What a stream sends goes to whoever is behind it: `rest` is its line from the comma behind the id on.
local function forward(stream, rest, event, value)
  if stream.peer then
    stream.peer.isEnded = stream.peer.isEnded or event == "end"
    send(stream.peer.conn, '["' .. stream.peer.id .. '"' .. rest)
  elseif stream.channel and event == "data" then
    stream.channel:send(type(value) == "string" and value or json.encode(value))
  elseif stream.waiting then
    stream.waitingBytes = stream.waitingBytes + #rest + 64
    if stream.waitingBytes > MOST_WAITING then return finish(stream) end
    stream.waiting[#stream.waiting + 1] = rest
  end
end

local function listen(stream, name)
  if muxServers[name] or not relay.install(name, stream.conn) then return finish(stream) end
  muxServers[name] = stream
  stream.name, stream.clients = name, {}
end

local function dial(stream, name)
  local listener = listeners and listeners[name]
  if not listener or relay.server(name) ~= listener then return finish(stream) end
  stream.channel = relay.dial(name, 0, {
    message = function(_, data, kind)
      if kind == "text" and not stream.isOver then say(stream, "data", data) end
    end,
    close = function()
      stream.channel = nil
      finish(stream)
    end
  })
  if not stream.channel then finish(stream) end
end

local function connect(stream, name)
  local server = muxServers[name]
  if not server then return dial(stream, name) end
  stream.ticket, stream.server, stream.waiting, stream.waitingBytes = relay.randomToken(16), server, {}, 0
  muxClients[stream.ticket] = stream
  server.clients[stream] = true
  say(server, "data", stream.ticket)
end

local function pick(stream, name, ticket)
  local client, server = muxClients[ticket], muxServers[name]
  if not client or not server or server.conn ~= stream.conn or client.server ~= server then return finish(stream) end
  local waiting = client.waiting
  muxClients[ticket], server.clients[client] = nil, nil
  client.ticket, client.waiting, client.peer, stream.peer = nil, nil, stream, client
  for _, rest in ipairs(waiting) do forward(client, rest) end
end

local function open(conn, id, about)
  local mux = conn.data.mux
  local stream = { conn = conn, id = id }
  local meta = type(about) == "table" and about.meta
  local what, rest = tostring(meta):match(PREFIX .. "(%a+)/(.+)$")
  if mux.count >= MOST_STREAMS or not what then return finish(stream) end
  mux.streams[id], mux.count = stream, mux.count + 1
  local name, ticket = rest:match("^([^/]+)/client/([^/]+)$")
  if what == "server" and name then return pick(stream, name, ticket) end
  if what == "server" and not rest:find("/", 1, true) and #rest <= 255 then return listen(stream, rest) end
  name = what == "client" and rest:match("^([^/]+)/[^/]*$")
  if name and #name <= 255 then return connect(stream, name) end
  finish(stream)
end

local function line(conn, text)
  local id, rest = text:match('^%["([^"\\]*)"(,.*)$')
  local isJSON, parts = pcall(json.decode, text)
  -- Of a binary message nobody has looked whether it is UTF-8.
  if not id or not isJSON or type(parts[2]) ~= "string" or not utf8.len(text) then
    return conn:close(1007, "this is no line of mux-demux")
  end
  local stream, event = conn.data.mux.streams[id], parts[2]
  if event == "new" then
    if not stream then open(conn, id, parts[3]) end
  elseif stream then
    stream.isClosed = event == "close"
    if not stream.isClosed then forward(stream, rest, event, parts[3]) end
    if stream.isClosed or (event == "end" and not stream.peer) then finish(stream) end
  end
end

-- Reads the lines that have come, some at a time, so that no burst of them is too long for one call.
local function read(conn)
  local mux = conn.data.mux
  local from = 1
  mux.isReading = false
  for _ = 1, LINES_AT_ONCE do
    local last = mux.text:find("\n", from, true)
    if not last or not conn:isOpen() then
      mux.text = mux.text:sub(from)
      return
    end
    line(conn, mux.text:sub(from, last - 1))
    from = last + 1
  end
  mux.text, mux.isReading = mux.text:sub(from), true
  relay.after(0, function() read(conn) end)
end

relay.on("message", function(conn, data)
  local mux = conn.data.mux
  if not mux then
    if data:sub(1, 1) ~= "[" then return end
    mux = { streams = {}, count = 0, text = "" }
    conn.data.mux = mux
  end
  if #mux.text + #data > MOST_UNREAD then
    conn:close(1009, "too much that is no line")
    return true
  end
  mux.text = mux.text .. data
  if not mux.isReading then read(conn) end
  return true
end)

relay.on("close", function(conn)
  local mux = conn.data.mux
  for _, stream in pairs(mux and mux.streams or {}) do finish(stream) end
end)
