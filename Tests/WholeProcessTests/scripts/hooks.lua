-- Instructions with which tests look at what scripts are given.

relay.instruction { "print", function(conn, text) print(text) end }

relay.instruction {
  "facts",
  function(conn)
    return {
      id = conn.id, app = conn.app, remoteAddress = conn.remoteAddress, path = conn.path, query = conn.query,
      port = conn.port, isAdmin = conn.isAdmin, subprotocol = conn.subprotocol, tls = conn.tls,
      agent = conn.headers["user-agent"]
    }
  end
}

closed = closed or {}

relay.on("close", function(conn, code, reason)
  closed[#closed + 1] = { connection = conn.id, code = code, reason = reason }
  relay.log("info", "closed", { code = code, reason = reason })
end)
