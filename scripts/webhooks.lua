-- WebSocket as a service: a back end that speaks HTTP gets what connections say as requests, and speaks to them with
-- requests of its own (docs/webhooks.md).
--
--   a client connects      POST   {target}/{id}   {"code":"NEW_CONNECTION","ws_uri":…}, the client's Authorization;
--                                                 only 200 with {"code":"OK"} lets it in, anything else is a 403
--   a client says it       PUT    {target}/{id}   the message, in order for each connection
--   a connection is gone   DELETE {target}/{id}   once for every connection that was let in
--
--   PUT {ws_uri} sends its body to the client, DELETE {ws_uri} closes; POST, GET and DELETE /@connections/{id} are the
--   same in the words of Amazon's API Gateway. Both need a credential with the right invoke:push, or an admin's.
--
-- Settings (--set NAME=VALUE):
--   target         where the back end is: http://HOST[:PORT]/PATH; its host must be allowed (--http-allow)
--   address        what ws_uri begins with: how the back end reaches this relay
--   secret         signs what the back end gets (Standard Webhooks): whsec_ and base64, or any text
--   timeout        seconds for one request (10), at most 3 less than callTime
--   retryTime      seconds for which a message is tried again before its connection is closed (300)
--   requests       requests to the back end at a time, and as many for those who ask to be let in (128)
--   queueMessages, queueBytes   what one connection may have waiting before it is read no further (64, 1 MiB)
--   totalBytes     what all may have waiting together before each is read no further (a quarter of scriptMemory)
--
-- Whoever is an admin at the handshake is no client of the back end, and neither is a linked relay.

local function setting(name, default)
  local value = relay.config[name]
  if value == nil or value == "" then return default end
  return value
end

local numbers = { "timeout", "retryTime", "requests", "queueMessages", "queueBytes", "totalBytes" }

local function isNumber(value) return (tonumber(value) or 0) > 0 end

local function number(name, default)
  local value = setting(name)
  return isNumber(value) and tonumber(value) or default
end

local function withoutSlash(url) return (url:gsub("/+$", "")) end

local function target()
  local url = withoutSlash(setting("target", ""))
  return url:find("://", 1, true) and url or "http://" .. url
end

local function timeout() return math.min(number("timeout", 10), relay.config.callTime - 3) end

-- Base64 (RFC 4648): relay.hmac answers in hexadecimal, Standard Webhooks wants base64.
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local pairOf, valueOf = {}, {}
for i = 0, 63 do
  valueOf[alphabet:byte(i + 1)] = i
  for j = 0, 63 do pairOf[i * 64 + j] = alphabet:sub(i + 1, i + 1) .. alphabet:sub(j + 1, j + 1) end
end

-- The base64 of the 32 bytes of a digest in hexadecimal: 3 digits make 2 characters, and the last 4 make 3.
local function base64OfDigest(hexadecimal)
  local parts = {}
  for at = 1, 60, 3 do parts[#parts + 1] = pairOf[tonumber(hexadecimal:sub(at, at + 2), 16)] end
  local last = tonumber(hexadecimal:sub(61, 64), 16) << 2
  parts[#parts + 1] = pairOf[last >> 6] .. alphabet:sub((last & 63) + 1, (last & 63) + 1) .. "="
  return table.concat(parts)
end

local function decodeBase64(text)
  local bytes, bits, count = {}, 0, 0
  for at = 1, #text do
    local value = valueOf[text:byte(at)]
    bits, count = (bits << 6 | value) & 0xffff, count + 6
    if count >= 8 then
      count = count - 8
      bytes[#bytes + 1] = string.char(bits >> count & 0xff)
    end
  end
  return table.concat(bytes)
end

local function signingKey()
  local secret = setting("secret")
  local encoded = secret and secret:match("^whsec_([%w+/][%w+/]+)=*$")
  return encoded and decodeBase64(encoded) or secret
end

-- What every request carries. The id is the same each time that a message is tried: with it the back end knows one that
-- it has had already.
local function headersFor(id, body, others)
  local now = string.format("%d", relay.now() // 1)
  local headers = { ["webhook-id"] = id, ["webhook-timestamp"] = now, ["idempotency-key"] = id }
  local key = signingKey()
  if key then
    local signed = relay.hmac(key, id .. "." .. now .. "." .. body)
    headers["webhook-signature"] = "v1," .. base64OfDigest(signed)
  end
  for name, value in pairs(others or {}) do headers[name] = value end
  return headers
end

-- Connections. `webhooks` is global, so that it outlives a new version of this script.
--   byID         id -> entry                  opening   number of a connection -> entry that waits for its 101
--   byConnection number of a connection -> entry
--   ready        entries with something to send, `first` to `last`; no entry is there twice, or while it is served
--   count        how many entries there are
--   asking       entries whose POST is under way -> when that is over, whatever becomes of its call
--   workers      calls that send, by a number of their own: { entry, ends }
--   later        quarter of a second -> entries whose next try is due then
--
-- An entry: id, number, conn (once it is open), items `first` to `last` that wait, their bytes, sequence of the last
-- message, attempts at the first item, isBusy (in `ready`, served, or in `later`, then isWaiting), isPaused, openedAt,
-- activeAt, isGone.

local function countOf(entry) return entry.last - entry.first + 1 end

local function makeReady(entry)
  webhooks.last = webhooks.last + 1
  webhooks.ready[webhooks.last] = entry
end

local function takeReady()
  if webhooks.first > webhooks.last then return nil end
  local entry = webhooks.ready[webhooks.first]
  webhooks.ready[webhooks.first] = nil
  webhooks.first = webhooks.first + 1
  return entry
end

local function forget(entry)
  if entry.isGone then return end
  entry.isGone = true
  webhooks.count = webhooks.count - 1
  webhooks.byID[entry.id] = nil
  if webhooks.byConnection[entry.number] == entry then webhooks.byConnection[entry.number] = nil end
end

-- What an item takes of the memory for those that wait, its tables included.
local function cost(body) return #body + 512 end

-- What there is takes of the memory: an entry 1.3 KiB, and an end has to find room for each. Beyond 5/8 nobody else is
-- let in, beyond 7/8 who sends more is closed.
local function isFuller(part, more)
  return webhooks.count * 2048 + webhooks.bytes + more > relay.config.scriptMemory * part
end

local function append(entry, item)
  entry.last = entry.last + 1
  entry.items[entry.last] = item
  entry.bytes = entry.bytes + cost(item.body)
  webhooks.bytes = webhooks.bytes + cost(item.body)
end

local function pop(entry)
  local item = entry.items[entry.first]
  entry.items[entry.first] = nil
  entry.first = entry.first + 1
  entry.bytes = entry.bytes - cost(item.body)
  entry.attempts, entry.since = 0, nil
  webhooks.bytes = webhooks.bytes - cost(item.body)
  if not entry.isPaused then return end
  local hasRoom = countOf(entry) <= number("queueMessages", 64) / 2 and entry.bytes <= number("queueBytes", 1048576) / 2
    and webhooks.bytes < number("totalBytes", relay.config.scriptMemory / 4)
  if hasRoom or countOf(entry) == 0 then
    entry.isPaused = false
    entry.conn:resume()
  end
end

-- Whether trying again can help: no answer, too much to do, or a fault of the back end.
local function isWorthATry(status) return not status or status == 408 or status == 429 or status >= 500 end

local serve, start

-- Looks after calls that send: when one was stopped in the middle of its work, somebody else goes on.
local function watch()
  if webhooks.isWatched then return end
  webhooks.isWatched = true
  relay.after(relay.config.callTime + 2, function()
    webhooks.isWatched = false
    local now = relay.monotonic()
    for key, worker in pairs(webhooks.workers) do
      if worker.ends < now then
        webhooks.workers[key] = nil
        webhooks.running = webhooks.running - 1
        if worker.entry and not worker.entry.isWaiting then makeReady(worker.entry) end
      end
    end
    start(false)
  end)
end

-- Starts calls that send, as many as may and are needed. `here` says that the present call can be one.
start = function(here)
  local most, needed = number("requests", 128), webhooks.last - webhooks.first + 1
  if needed > 0 or webhooks.running > 0 then watch() end
  while webhooks.running < most and needed > 0 do
    needed = needed - 1
    webhooks.nextWorker = webhooks.nextWorker + 1
    local key = webhooks.nextWorker
    local worker = { ends = relay.monotonic() + relay.config.callTime + 1 }
    webhooks.workers[key] = worker
    webhooks.running = webhooks.running + 1
    if here then return serve(key, worker) end
    relay.after(0, function() serve(key, worker) end)
  end
end

-- Puts an item behind the others of its entry, and sees to it that it is sent.
local function put(entry, item, here)
  append(entry, item)
  if entry.isBusy then return end
  entry.isBusy = true
  makeReady(entry)
  start(here)
end

-- The entry's connection is gone, which the back end hears last.
local function finish(entry, here)
  webhooks.byConnection[entry.number] = nil
  entry.isPaused = false
  put(entry, { method = "DELETE", id = "msg_" .. entry.id .. "_end", body = "" }, here)
end

-- Comes back to an entry in so many seconds.
local function postpone(entry, seconds)
  local slot = math.ceil((relay.monotonic() + seconds) * 4)
  local entries = webhooks.later[slot]
  if entries then
    entries[#entries + 1] = entry
    return
  end
  webhooks.later[slot] = { entry }
  relay.after(math.max(0, slot / 4 - relay.monotonic()), function()
    local due = webhooks.later[slot]
    webhooks.later[slot] = nil
    for _, entry in ipairs(due) do
      if webhooks.opening[entry.number] == entry then
        -- It was accepted by the back end, and never came in: its client went while it waited.
        webhooks.opening[entry.number] = nil
        finish(entry, false)
      elseif entry.isWaiting then
        entry.isWaiting = false
        makeReady(entry)
      end
    end
    start(false)
  end)
end

-- Logs a message at most once in a minute: what a back end does wrong it does wrong with everybody.
local function say(level, message, fields)
  local now = relay.monotonic()
  if now < (webhooks.said[message] or -60) + 60 then return end
  webhooks.said[message] = now
  relay.log(level, message, fields or {})
end

local function report(isDown, why)
  if webhooks.isDown == isDown then return end
  webhooks.isDown = isDown
  if isDown then
    say("warning", "the back end does not answer; what it should get waits", { reason = why })
  else
    say("info", "the back end answers again")
  end
end

-- Gives up what an entry's client has said: its messages are lost, and so it is told that its connection is over.
local function giveUp(entry, why)
  local dropped = 0
  while countOf(entry) > 0 and entry.items[entry.first].method == "PUT" do
    pop(entry)
    dropped = dropped + 1
  end
  relay.log("error", "messages for the back end were given up", { id = entry.id, messages = dropped, reason = why })
  if entry.conn then entry.conn:close(1011, "the back end does not answer") end
end

-- Tries the first item of an entry once. Whether the entry can be served on.
local function send(entry, item)
  local others
  if item.method == "PUT" then
    others = { ["content-type"] = item.kind == "text" and "text/plain; charset=utf-8" or "application/octet-stream" }
  end
  local status, _, message, answered = relay.http {
    method = item.method, url = target() .. "/" .. entry.id, body = item.method == "PUT" and item.body or nil,
    headers = headersFor(item.id, item.body, others), timeout = timeout(),
  }
  -- An answer that was too long to be read was one all the same.
  status = status or answered
  if not isWorthATry(status) then
    report(false)
    if status >= 300 and item.method == "PUT" then
      say("warning", "the back end has refused a message", { id = entry.id, status = status })
    end
    pop(entry)
    if item.method == "DELETE" then forget(entry) end
    return true
  end
  local why = status and "status " .. status or message
  report(true, why)
  local now = relay.monotonic()
  entry.since = entry.since or now
  entry.attempts = entry.attempts + 1
  if item.method == "PUT" and now - entry.since > number("retryTime", 300) then
    giveUp(entry, why)
    return true
  end
  -- Full jitter over the upper half, so that those who wait do not come at once.
  postpone(entry, math.min(30, 0.25 * 2 ^ math.min(entry.attempts, 7)) * (0.5 + math.random() / 2))
  entry.isWaiting = true
  return false
end

-- One call that sends what is ready: one item of each entry in turn, so that nobody waits for another's long queue.
serve = function(key, worker)
  local ends = relay.monotonic() + relay.config.callTime - timeout() - 2
  local sent = 0
  local entry = takeReady()
  while entry do
    worker.entry = entry
    local item = entry.items[entry.first]  -- None where a call was stopped that had sent the last one.
    sent = sent + (item and #item.body or 0)
    local goesOn = not item or send(entry, item)
    if webhooks.workers[key] ~= worker then return end  -- It took so long that another has gone on.
    worker.entry = nil
    if goesOn then
      if countOf(entry) > 0 then makeReady(entry) else entry.isBusy = false end
    end
    if relay.monotonic() > ends or sent > relay.config.outputBytesPerCall / 4 then break end
    entry = takeReady()
  end
  webhooks.workers[key] = nil
  webhooks.running = webhooks.running - 1
  start(false)
end

relay.on("reload", function()
  if setting("target", "") == "" then
    error("webhooks.lua needs the setting target: --set target=http://HOST/PATH", 0)
  end
  for _, name in ipairs(numbers) do
    if setting(name) and not isNumber(setting(name)) then
      error("the setting " .. name .. " is " .. setting(name) .. ", but must be a number above 0", 0)
    end
  end
  if setting("secret", ""):find("^whsec_") and signingKey() == setting("secret") then
    error("the setting secret begins with whsec_, but no base64 follows", 0)
  end
  webhooks = webhooks or {
    byID = {}, byConnection = {}, opening = {}, asking = {}, ready = {}, first = 1, last = 0, later = {}, workers = {},
    running = 0, nextWorker = 0, bytes = 0, count = 0, said = {}, isDown = false, isWatched = false,
  }
  relay.after(0, function()
    local entries = {}
    for _, entry in pairs(webhooks.byConnection) do entries[#entries + 1] = entry end
    for i, entry in ipairs(entries) do
      if i % 1000 == 0 then relay.sleep(0) end
      -- It was closed while no version of this script was there to hear of it.
      if webhooks.byConnection[entry.number] == entry and not entry.conn:isOpen() then finish(entry, false) end
    end
  end)
end)

-- How many POSTs are under way.
local function countAsking()
  local count, now = 0, relay.monotonic()
  for entry, ends in pairs(webhooks.asking) do
    if ends < now then webhooks.asking[entry] = nil else count = count + 1 end
  end
  return count
end

relay.on("handshake", function(request)
  if request.isAdmin or request.subprotocol == "relay.link.v1" then return end
  -- Who asks to be let in must not keep those waiting who are in.
  if countAsking() >= number("requests", 128) or isFuller(5 / 8, 0) then
    say("warning", "clients are not let in: too many ask or are here", { remote = request.remoteAddress })
    return false, 503, "There are too many connections: try again later."
  end
  local id = relay.randomToken(16)
  local entry = {
    id = id, number = request.connection, items = {}, first = 1, last = 0, bytes = 0, sequence = 0, attempts = 0,
    isBusy = false, isPaused = false, openedAt = relay.now(), activeAt = relay.now(),
    remoteAddress = request.remoteAddress, userAgent = request.headers["user-agent"],
  }
  webhooks.byID[id] = entry
  webhooks.count = webhooks.count + 1
  local body = json.encode {
    code = "NEW_CONNECTION", ws_uri = withoutSlash(setting("address", "http://127.0.0.1:8087")) .. "/" .. id, id = id,
    path = request.path, query = request.query, remote_address = request.remoteAddress,
  }
  local others = { ["content-type"] = "application/json", authorization = request.headers.authorization }
  local seconds = math.min(timeout(), relay.config.handshakeTimeout * 0.9)
  webhooks.asking[entry] = relay.monotonic() + seconds + 1
  local status, headers, answer, answered = relay.http {
    method = "POST", url = target() .. "/" .. id, body = body, timeout = seconds,
    headers = headersFor("msg_" .. id .. "_0", body, others),
  }
  webhooks.asking[entry] = nil
  local isJSON, decoded = pcall(json.decode, status and answer or "")
  if status == 200 and isJSON and type(decoded) == "table" and decoded.code == "OK" then
    report(false)
    webhooks.opening[request.connection] = entry
    postpone(entry, relay.config.handshakeTimeout + 1)
    return
  end
  if not status and headers == "timeout" then
    -- The back end may have taken it for one of its connections after all: it hears that it is over.
    webhooks.opening[request.connection] = entry
    postpone(entry, 0)
  else
    forget(entry)
  end
  if not status and not answered then report(true, answer) end
  return false, 403, "The back end does not accept this connection."
end)

relay.on("open", function(conn)
  local entry = webhooks.opening[conn.id]
  if not entry then return end
  webhooks.opening[conn.id] = nil
  webhooks.byConnection[conn.id] = entry
  entry.conn = conn
  conn:takeMessages()
end)

relay.on("message", function(conn, data, kind)
  local entry = webhooks.byConnection[conn.id]
  if not entry then return end
  -- What has no room, however much waits already, or no call could send: it is said, not passed over.
  if #data > relay.config.outputBytesPerCall / 2 then
    conn:close(1009, "the message is too long to be sent to the back end")
    return true
  elseif isFuller(7 / 8, cost(data)) then
    conn:close(1013, "too much waits for the back end")
    return true
  end
  entry.activeAt = relay.now()
  entry.sequence = entry.sequence + 1
  local isFull = countOf(entry) + 1 >= number("queueMessages", 64)
    or entry.bytes + cost(data) >= number("queueBytes", 1048576)
    or webhooks.bytes + cost(data) >= number("totalBytes", relay.config.scriptMemory / 4)
  if isFull and not entry.isPaused then
    entry.isPaused = true
    conn:pause()
  end
  put(entry, { method = "PUT", id = "msg_" .. entry.id .. "_" .. entry.sequence, body = data, kind = kind }, true)
  return true
end)

relay.on("close", function(conn)
  local entry = webhooks.byConnection[conn.id]
  if entry then finish(entry, true) end
end)

-- What the back end asks.

local function answer(status, code, message)
  return status, { ["content-type"] = "application/json" }, json.encode { code = code, message = message }
end

-- Whether a body is text, by its type: what has none is.
local function isText(contentType)
  local kind = (contentType or "text/plain"):lower():match("^%s*([^;%s]*)")
  return kind == "" or kind:find("^text/") ~= nil or kind:find("[/+]json$") ~= nil or kind:find("[/+]xml$") ~= nil
    or kind == "application/javascript" or kind == "application/x-www-form-urlencoded"
end

local function push(entry, request, gone)
  if #request.body > relay.config.messageBytes then
    return answer(413, "MESSAGE_TOO_LONG", "a message has at most " .. relay.config.messageBytes .. " bytes")
  end
  local text = isText(request.headers["content-type"])
  if text and not utf8.len(request.body) then
    return answer(400, "BAD_REQUEST", "a text must be UTF-8; send bytes as application/octet-stream")
  end
  local result = text and entry.conn:send(request.body) or not text and entry.conn:sendBinary(request.body)
  if result ~= "dropped" then
    entry.activeAt = relay.now()
    return answer(200, "OK")
  end
  if not entry.conn:isOpen() then return answer(gone, "NOT_FOUND") end
  return answer(503, "BAD_REQUEST", "the client reads too slowly: try again later")
end

local function describe(entry)
  local function date(time) return os.date("!%Y-%m-%dT%H:%M:%SZ", time // 1) end
  return 200, { ["content-type"] = "application/json" }, json.encode {
    connectedAt = date(entry.openedAt), lastActiveAt = date(entry.activeAt),
    identity = { sourceIp = entry.remoteAddress, userAgent = entry.userAgent },
  }
end

relay.on("request", function(request)
  local id = request.path:match("^/@connections/([^/]+)$")
  local isAlias = id ~= nil
  if not id then
    local base = withoutSlash(setting("address", "")):gsub("^%a[%w+.-]*://", ""):match("/.*$") or ""
    local path = request.path
    if path:sub(1, #base + 1) == base .. "/" then path = path:sub(#base + 1) end
    id = path:match("^/(%x+)$")
    if not id or #id ~= 32 then return nil end
  end
  if not request.isAdmin and not request.may("invoke:push") then
    return 401, { ["content-type"] = "application/json", ["www-authenticate"] = "Bearer" },
      json.encode { code = "UNAUTHORIZED", message = "send a credential with the right invoke:push" }
  end
  local method, gone = request.method, isAlias and 410 or 404
  local entry = webhooks.byID[id]
  -- Between its answer to the POST and the 101 there is a moment in which the back end may speak already.
  for _ = 1, 100 do
    if not entry or entry.conn or entry.isGone then break end
    relay.sleep(0.05)
  end
  if not entry or not entry.conn or not entry.conn:isOpen() then return answer(gone, "NOT_FOUND") end
  if method == "DELETE" then
    if not entry.conn:close(1000, "") then return answer(gone, "NOT_FOUND") end
    if isAlias then return 204, {}, "" end
    return answer(200, "OK")
  end
  if method == (isAlias and "POST" or "PUT") then return push(entry, request, gone) end
  if isAlias and method == "GET" then return describe(entry) end
  local status, headers, body = answer(405, "BAD_REQUEST", "this is none of the methods that are allowed")
  headers.allow = isAlias and "POST, GET, DELETE" or "PUT, DELETE"
  return status, headers, body
end)
