-- Who may meet: one rule for each port, so that a test chooses by it.

seen = seen or {}

relay.on("connect", function(conn, server, port, request)
  seen[#seen + 1] = {
    connection = conn.id, server = server, port = port, path = request.path, query = request.query,
    agent = request.headers and request.headers["x-agent"]
  }
  if port == 1 then return true end
  if port == 2 then return false end
  if port == 3 then return false, 451, "for legal reasons" end
  if port == 4 then return "other", 44 end
  if port == 5 then return true, nil, { from = server, list = { 1, "two", true } } end
  if port == 6 then relay.sleep(0.05) return "other", nil, { "slept" } end
  if port == 7 then relay.sleep(0.05) return false, 429, "slept" end
  if port == 8 then error("no rule for this") end
  if port == 9 then relay.sleep(0.05) error("no rule for this") end
  if port == 10 then return "nobody" end
  if port == 11 then while true do end end
  if port == 12 then return {} end
  if port == 13 then return false, 200, "no refusal" end
  if port == 14 then relay.sleep(3600) end
end)
