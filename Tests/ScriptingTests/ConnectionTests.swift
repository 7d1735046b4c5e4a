import Relay
import Testing

@testable import Scripting

@Suite struct ConnectionTests {
    @Test func `facts answer, and a plain connection has no tls`() throws {
        let bench = try Bench()
        bench.host.admins = [2]
        let facts =
            "conn.id, conn.app, conn.remoteAddress, conn.remotePort, conn.path, conn.query, conn.headers.origin, "
            + "conn.port, conn.isAdmin, tostring(conn.subprotocol), tostring(conn.tls), tostring(conn)"
        try bench.add("f", "function(conn) return { \(facts) } end")
        #expect(
            bench.call("f", connection: 1)
                == .returned(
                    (#"[1,"default","192.0.2.1",4711,"/here","a=b","https://example.org",8087,"#
                        + #"false,"nil","nil","connection 1"]"#)
                        .replacing("/", with: #"\/"#)))
        #expect(bench.call("f", connection: 2).json?.hasSuffix(#"true,"relay.v1","TLSv1.3","connection 2"]"#) == true)
    }

    @Test func `isAdmin is asked for each time, since it can change`() throws {
        let bench = try Bench()
        try bench.add("f", "function(conn) local path = conn.path return conn.isAdmin end")
        #expect(bench.call("f") == .returned("false"))
        bench.host.admins = [1]
        #expect(bench.call("f") == .returned("true"))
    }

    @Test func `the headers are one table, whatever else is asked before and after`() throws {
        let bench = try Bench()
        try bench.add(
            "f",
            "function(conn) local path, headers = conn.path, conn.headers local admin = conn.isAdmin "
                + "return { path, headers.origin, rawequal(headers, conn.headers), conn.query, conn.port } end")
        #expect(
            bench.call("f") == .returned(#"["\/here","https:\/\/example.org",true,"a=b",8087]"#))
    }

    @Test func `a connection is one object, with its data`() throws {
        let bench = try Bench()
        try bench.add("keep", "function(conn) kept = conn conn.data.n = 1 end")
        try bench.add(
            "same", "function(conn) conn.data.n = conn.data.n + 1 return rawequal(kept, conn) and conn.data.n end")
        bench.call("keep", connection: 5)
        #expect(bench.call("same", connection: 5) == .returned("2"))
        try bench.add("replace", "function(conn) conn.data = { n = 41 } return conn.data.n end")
        #expect(bench.call("replace", connection: 5) == .returned("41"))
        #expect(bench.call("same", connection: 5) == .returned("42"))
    }

    @Test func `case 20: a connection that is kept after it is gone is closed, and its data is still there`() throws {
        let bench = try Bench()
        try bench.add("keep", "function(conn) kept = conn conn.data.n = 1 local _ = conn.path end")
        bench.call("keep", connection: 5)
        bench.engine.forget(ConnectionID(rawValue: 5))
        bench.engine.forget(ConnectionID(rawValue: 5))
        #expect(
            bench.eval(
                "{ kept:send('x'), kept:sendBinary('x'), kept:isOpen(), kept:close(), kept.data.n, "
                    + "tostring(kept.path), kept.id }"
            )
                == .returned(#"["dropped","dropped",false,false,1,"nil",5]"#))
        #expect(bench.eval("select(2, relay.install('a', kept))") == .returned(#""not_found""#))
        #expect(bench.host.sent.isEmpty)
        #expect(bench.host.closed.isEmpty)
    }

    @Test func `send answers what became of the message`() throws {
        let bench = try Bench()
        try bench.add("f", "function(conn, x) return conn:send(x) end")
        #expect(bench.call("f", #"["é"]"#) == .returned(#""queued""#))
        bench.host.sendResult = .backpressure
        #expect(bench.call("f", "[12]") == .returned(#""backpressure""#))
        bench.host.open = []
        #expect(bench.call("f", "[1.5]") == .returned(#""dropped""#))
        #expect(bench.host.sent.map(\.text) == ["é", "12"])
    }

    @Test func `bytes go out with sendBinary, and not as text`() throws {
        let bench = try Bench()
        #expect(bench.eval("(...):sendBinary('\\xff\\0')") == .returned(#""queued""#))
        #expect(bench.host.sent.first?.isText == false)
        let failure = try #require(bench.eval("(...):send('\\xff')").failure)
        #expect(failure.code == .scriptError)
        #expect(failure.message.contains("valid UTF-8"))
        for bad in [
            "\\xc0\\x80", "\\xed\\xa0\\x80", "\\xf4\\x90\\x80\\x80", "\\xe2\\x82", "12345678\\x80",
            "\\xf8\\x80\\x80\\x80",
        ] {
            #expect(bench.eval("(...):send('\(bad)')").failure != nil)
        }
        #expect(bench.host.sent.count == 1)
    }

    @Test(arguments: [
        ("conn:close()", "1 1000 "), ("conn:close(4000, 'bye')", "1 4000 bye"), ("conn:close(1001)", "1 1001 "),
        ("conn:close(1013, 'é')", "1 1013 é"), ("conn:close(3000.0)", "1 3000 "),
    ])
    func `close takes the codes that a server may send`(call: String, expected: String) throws {
        let bench = try Bench()
        #expect(bench.eval("local conn = ... return \(call)") == .returned("true"))
        #expect(bench.host.closed == [expected])
    }

    @Test(arguments: [
        "0", "999", "1002", "1004", "1005", "1006", "1010", "1014", "1015", "1016", "2999", "5000", "65535", "-1",
        "2^40",
        "1000.5", "0/0", "'x'", "{}", "1000, ('x'):rep(124)", "1000, '\\xff'", "1000, {}", "math.maxinteger",
    ])
    func `close refuses what a server may not send`(arguments: String) throws {
        let bench = try Bench()
        #expect(bench.eval("local conn = ... return conn:close(\(arguments))").failure?.code == .scriptError)
        #expect(bench.host.closed.isEmpty)
    }

    @Test(arguments: [
        "conn.id = 1", "conn.x = 1", "conn[1] = 1", "conn.send = print", "getmetatable(conn).x = 1",
        "setmetatable(conn, {})", "conn.send({})", "conn.send()", "conn:send()", "conn:send({})", "conn:send(nil)",
        "conn:send(conn)", "conn.close(1)", "conn.isOpen('x')", "rawset(conn, 'a', 1)", "rawget(conn, 'a')",
        "conn.send(io)",
        "conn.send(coroutine.create(print), 'x')", "conn()", "conn + 1", "#conn", "conn < conn", "conn .. 'x'",
        "for k in pairs(conn) do end", "conn:send(string.rep('x', 1e9))", "relay.install(0/0, conn)",
        "relay.install(2^70, conn)", "relay.install(1.5, conn)", "relay.install('', conn)", "relay.install({}, conn)",
        "relay.install(('x'):rep(256), conn)", "relay.install('\\xff', conn)", "relay.install('a', 'b')",
        "relay.install('a', conn, 1)", "relay.install('a', conn, { ports = 22 })",
        "relay.install('a', conn, { ports = '' })", "relay.install('a', conn, { ports = {} })",
        "relay.install('a', conn, { ports = '22,x' })", "relay.install('a', conn, { ports = '90-80' })",
        "relay.install('a', conn, { ports = '65536' })", "relay.install('a', conn, { ports = { 65536 } })",
        "relay.install('a', conn, { ports = { -1 } })", "relay.install('a', conn, { ports = { 22, '80' } })",
        "relay.install('a', conn, { ports = { 1.5 } })", "relay.install('a', conn, { ports = conn })",
        "relay.install('a', conn, { ports = ('1,'):rep(64) .. '1' })",
        "local t = {} for i = 1, 65 do t[i] = i end relay.install('a', conn, { ports = t })",
        "relay.install('a', conn, { ports = ('x'):rep(16e6) })", "relay.connect()", "relay.connect('a', 0, 0)",
        "relay.connect(conn)", "relay.connect(conn, 'a')", "relay.connect(conn, '', 0)", "relay.connect(conn, {}, 0)",
        "relay.connect(conn, 0.5, 0)", "relay.connect(conn, 'a', -1)", "relay.connect(conn, 'a', 65536)",
        "relay.connect(conn, 'a', '22')", "relay.connect(conn, 'a', 0, 'x')", "relay.connect(conn, 'a', 0, json.null)",
        "relay.connect(conn, 'a', 0, { '\\xff' })",
        "relay.connect(conn, 'a', 0, { ('x'):rep(4093) })",
        "local t = {} t.t = t relay.connect(conn, 'a', 0, t)", "relay.server(nil)", "relay.uninstall(print)",
        "relay.randomToken(0)",
        "relay.randomToken(1025)", "relay.randomToken(-1)", "relay.randomToken(0/0)", "relay.randomToken('x')",
        "relay.sha256()", "relay.sha256({})", "relay.hmac('x')", "relay.equal({}, 'a')", "relay.log('loud', 'x')",
        "relay.log('info')", "relay.log('info', 'x', 1)", "relay.log('info', 'x', { [{}] = 1 })",
        "relay.after(-1, print)",
        "relay.after(0/0, print)", "relay.after(1/0, print)", "relay.after(4e8, print)", "relay.after('x', print)",
        "relay.after(1)", "relay.after(1, 2)", "relay.every(0, print)", "relay.sleep(-1)", "relay.sleep()",
        "relay.cancel({})",
        "relay.now = 1", "relay.config.x = 1", "relay.config.nested.list[1] = 5", "coroutine.wrap = nil",
        "relay = nil", "print = nil", "require = 1", "coroutine = {}", "relay.emit()", "relay.emit({})", "require()",
    ])
    func `case 19: wrong types and odd values are errors of the script`(statement: String) throws {
        let bench = try Bench()
        let isExpression = statement.hasPrefix("conn ") || statement.hasPrefix("#")
        try bench.add(
            "f",
            "function(conn)\n  \(isExpression ? "local _ = " : "")\(statement)\nend"
        )
        let failure = try #require(bench.call("f").failure)
        #expect(failure.code == .scriptError)
        #expect(failure.line == 2)
        #expect(bench.eval("1") == .returned("1"))
    }

    @Test func `unknown fields of a connection are nil`() throws {
        let bench = try Bench()
        #expect(
            bench.eval(
                "local c = ... return { c.x == nil, c[1] == nil, c[c] == nil, c['__index'] == nil, getmetatable(c) }")
                == .returned("[true,true,true,true,false]"))
    }

    @Test func `a connection that the host no longer knows has no facts`() throws {
        let bench = try Bench()
        bench.host.unknown = [1]
        #expect(bench.eval("tostring((...).path) .. tostring((...).isAdmin)") == .returned(#""nilnil""#))
    }

    @Test func `case 21: one call sends as much as outputBytesPerCall and no more`() throws {
        let bench = try Bench { $0.outputBytesPerCall = 100_000 }
        try bench.add("flood", "function(conn) while true do pcall(conn.send, conn, ('x'):rep(998)) end end")
        let failure = try #require(bench.call("flood").failure)
        #expect(failure.code == .outputExceeded)
        #expect(failure.line == 1)
        #expect(bench.host.sent.count == 100)
        #expect(bench.call("flood").failure?.code == .outputExceeded)
        #expect(bench.host.sent.count == 200)
        try bench.add("big", "function(conn) return ('x'):rep(100001) end")
        #expect(bench.call("big").failure?.code == .outputExceeded)
        try bench.add("table", "function(conn) return { ('x'):rep(100001) } end")
        #expect(bench.call("table").failure?.code == .outputExceeded)
    }

    @Test func `pipe answers true, or nil and a code`() throws {
        let bench = try Bench()
        try bench.add("keep", "function(conn) other = conn end")
        bench.call("keep", connection: 7)
        #expect(bench.eval("relay.pipe(..., other)") == .returned("true"))
        #expect(bench.host.piped == ["1 7"])
        for arguments in ["", "...", "1, 2", "..., 7", "..., {}", "nil, ...", "..., relay"] {
            #expect(
                bench.eval("{ select('#', relay.pipe(\(arguments))), select(2, relay.pipe(\(arguments))) }")
                    == .returned(#"[2,"bad_parameters"]"#), "\(arguments)")
        }
        for refusal in [ErrorCode.badParameters, .notFound, .conflict] {
            bench.host.refusesPipe = refusal
            #expect(bench.eval("select(2, relay.pipe(..., other))") == .returned("\"\(refusal.rawValue)\""))
        }
        bench.engine.forget(ConnectionID(rawValue: 7))
        #expect(bench.eval("select(2, relay.pipe(..., other))") == .returned(#""not_found""#))
        #expect(bench.eval("select(2, relay.pipe(other, ...))") == .returned(#""not_found""#))
        #expect(bench.host.piped == ["1 7"])
    }

    @Test func `servers are installed under numbers and names, which differ`() throws {
        let bench = try Bench()
        #expect(bench.eval("relay.install(0, ...)") == .returned("true"))
        #expect(bench.host.servers == [.number(0): ConnectionID(rawValue: 1)])
        #expect(bench.eval("tostring(relay.server('0'))") == .returned(#""nil""#))
        #expect(bench.eval("relay.server(0) == ...") == .returned("true"))
        #expect(bench.eval("relay.server(0.0) == ...") == .returned("true"))
        #expect(
            bench.eval("{ select('#', relay.install(0, ...)), select(2, relay.install(0, ...)) }")
                == .returned(#"[2,"conflict"]"#))
        #expect(bench.eval("relay.install(0, ..., { replace = true })") == .returned("true"))
        #expect(bench.eval("relay.uninstall(0)") == .returned("true"))
        #expect(bench.eval("relay.uninstall(0)") == .returned("false"))
    }

    @Test(
        arguments: [
            ("nil", nil), ("{}", nil), ("{ ports = '22,80-90' }", "22,80-90"), ("{ ports = { 80, 22 } }", "22,80"),
            ("{ ports = { 0, 65535 } }", "0,65535"), ("{ ports = '*' }", "*"),
            (
                "{ ports = { \((0..<64).map { String(65535 - $0) }.joined(separator: ",")) } }",
                "65472-65535"
            ),
        ] as [(String, String?)])
    func `install takes the ports that a server offers`(options: String, ports: String?) throws {
        let bench = try Bench()
        #expect(bench.eval("relay.install(0, ..., \(options))") == .returned("true"))
        #expect(bench.host.offered[.number(0)]?.description == ports)
    }

    @Test func `connect answers the channel's number, true, or nil and a code`() throws {
        let bench = try Bench()
        #expect(bench.eval("math.type(relay.connect(..., 'box', 22))") == .returned(#""integer""#))
        #expect(bench.eval("relay.connect(..., 0, 65535, { who = 'Ada' })") == .returned("2"))
        bench.host.connectResult = .channel(.max)
        #expect(bench.eval("relay.connect(..., '0', 0, {})") == .returned("4294967295"))
        bench.host.connectResult = .channel(nil)
        #expect(bench.eval("relay.connect(..., -1, 1, { ('x'):rep(4092) })") == .returned("true"))
        let longest = "[\"" + String(repeating: "x", count: 4092) + "\"]"
        #expect(
            bench.host.channels == ["1 box 22 -", #"1 0 65535 {"who":"Ada"}"#, "1 0 0 {}", "1 -1 1 \(longest)"])
        for refusal in [ErrorCode.notFound, .limit, .unavailable] {
            bench.host.connectResult = .refused(refusal)
            #expect(
                bench.eval("{ select('#', relay.connect(..., 0, 0)), select(2, relay.connect(..., 0, 0)) }")
                    == .returned("[2,\"\(refusal.rawValue)\"]"))
        }
        let asked = bench.host.channels.count
        #expect(bench.eval("relay.connect(..., 0, 0, { print })").failure?.code == .scriptError)
        try bench.add("keep", "function(conn) other = conn end")
        bench.call("keep", connection: 7)
        bench.engine.forget(ConnectionID(rawValue: 7))
        #expect(bench.eval("select(2, relay.connect(other, 0, 0))") == .returned(#""not_found""#))
        #expect(bench.host.channels.count == asked)
    }
}
