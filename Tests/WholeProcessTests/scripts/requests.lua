-- Answers HTTP requests in the ways that tests ask for.

served = served or 0

local pages = {}

function pages.facts(request)
  return 200, { ["Content-Type"] = "application/json" }, json.encode {
    method = request.method, path = request.path, query = request.query, headers = request.headers,
    body = request.body, remoteAddress = request.remoteAddress, tls = request.tls, isAdmin = request.isAdmin,
    app = request.app, connection = request.connection,
  }
end

function pages.may(request)
  local ok, answer = pcall(request.may, request.query)
  return 200, nil, ok and tostring(answer) or "error: " .. answer
end

function pages.echo(request) return 200, { ["Content-Type"] = "application/octet-stream" }, request.body end

function pages.length(request) return 200, nil, tostring(#request.body) end

function pages.sleep(request)
  relay.sleep(tonumber(request.query))
  return 200, nil, "slept"
end

function pages.large(request) return 200, nil, ("x"):rep(tonumber(request.query)) end

function pages.status(request) return tonumber(request.query) end

function pages.twice() return 200, { ["Set-Cookie"] = { "a=1", "b=2" }, ["X-Number"] = 7 }, "two" end

function pages.raise() error("no such luck") end

function pages.loop() while true do end end

function pages.split() return 200, { ["X-A"] = "b\r\nX-Injected: yes" } end

function pages.token() return 200, { ["X A"] = "b" } end

function pages.own() return 200, { ["content-length"] = "1" } end

function pages.keep(request)
  kept = request
  return 200
end

function pages.kept() return 200, nil, tostring(kept.may("admin")) end

relay.on("request", function(request)
  served = served + 1
  local page = pages[request.path:match("^/([^/]*)")]
  if page then return page(request) end
end)

relay.on("request", function(request)
  if request.path == "/second" then return 201, nil, "the second hook" end
end)

relay.instruction { "served", function() return served end }

relay.instruction { "address", function(conn) return conn.remoteAddress end }
