-- Pairs for the benchmark: two connections that invoke `pair` with the same name are piped to each other. Both are told
-- "paired", and from then on whatever one sends goes to the other, natively.
--
--   waiting   name -> the connection that came first

waiting = waiting or {}

relay.instruction {
  "pair",
  summary = "Pipes the sender to the other connection of the same name.",
  function(conn, name)
    local other = waiting[name]
    if not other then
      waiting[name] = conn
      return
    end
    waiting[name] = nil
    other:send("paired")
    conn:send("paired")
    relay.pipe(other, conn)
  end
}

relay.instruction {
  "echo",
  summary = "Sends a text back.",
  function(conn, text) conn:send(text) end
}
