-- Pairs of connections that are joined by relay.pipe.

waiting = waiting or {}

relay.instruction { "wait", function(conn, name) waiting[name] = conn end }

-- Joins the caller with the one that waits under the name, and says so to that one.
relay.instruction { "join", function(conn, name, greeting)
  if greeting then waiting[name]:send(greeting) end
  local done, code = relay.pipe(conn, waiting[name])
  return done or code
end }

-- The same, but the answer comes when something has been forwarded.
relay.instruction { "join, answer late", function(conn, name)
  relay.pipe(conn, waiting[name])
  isLate, isOver = false, false
  while not isLate do relay.sleep(0.01) end
  isOver = true
  return "late"
end }

relay.on("message", function(conn, data, kind)
  if kind == "text" then conn:send("for the app: " .. data) else conn:sendBinary(data) end
end)

relay.on("close", function(conn, code, reason)
  relay.log("info", "closed", { code = code, reason = reason, path = conn.path .. "?" .. conn.query })
end)
