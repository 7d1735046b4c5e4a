import Relay
import Testing

@testable import Scripting

/// `relay.http`, with a host that writes requests down.
@Suite struct HTTPTests {
    private let ok = OutboundResponse(
        status: 200, headers: [("content-type", "text/plain"), ("x", "1, 2"), ("empty", "")], body: Array("a\0b".utf8))

    @Test func `a request is handed on, and its answer comes back`() throws {
        let bench = try Bench()
        let id = bench.nextCall()
        let asked = bench.eval(
            """
            local status, headers, body = relay.http {
              method = "PUT", url = "http://example.com/a", headers = { ["X-Y"] = "z" }, body = "b\\0c", timeout = 2,
              redirects = 3 }
            return { status, headers["content-type"], headers.x, headers.empty, #body }
            """, id: id)
        #expect(asked == .suspended)
        let request = try #require(bench.host.requests.first)
        #expect(request.method == "PUT")
        #expect(request.url == "http://example.com/a")
        #expect(request.headers.map { "\($0.name)=\($0.value)" } == ["X-Y=z"])
        #expect(request.body == Array("b\0c".utf8))
        #expect(request.timeout == .seconds(2))
        #expect(request.redirects == 3)
        bench.engine.answered(ScriptRequestID(rawValue: 1), .success(ok))
        #expect(bench.host.finished[id] == .returned(#"[200,"text\/plain","1, 2","",3]"#))
    }

    @Test func `what goes wrong is a value`() throws {
        let bench = try Bench()
        let id = bench.nextCall()
        bench.eval("return {select(2, relay.http { url = 'http://a' })}", id: id)
        let failure = OutboundFailure(.timeout, "too late", status: 200)
        bench.engine.answered(ScriptRequestID(rawValue: 1), .failure(failure))
        #expect(bench.host.finished[id] == .returned(#"["timeout","too late",200]"#))
        bench.host.refusesRequest = OutboundFailure(.limit, "too many")
        #expect(bench.eval("return {select(2, relay.http { url = 'http://a' })}").json == #"["limit","too many"]"#)
    }

    @Test(arguments: [
        "{}", "{ url = 1 }", "{ url = 'a\\0b' }", "{ url = ('x'):rep(8193) }", "{ url = 'a', method = 'get' }",
        "{ url = 'a', method = 'A B' }", "{ url = 'a', method = 'CONNECT' }", "{ url = 'a', method = 'TRACE' }",
        "{ url = 'a', method = '' }", "{ url = 'a', body = 1 }", "{ url = 'a', headers = 'x' }",
        "{ url = 'a', headers = { 'x' } }", "{ url = 'a', headers = { x = 1 } }",
        "{ url = 'a', headers = { x = 'a\\r\\nb: c' } }", "{ url = 'a', headers = { x = 'a\\0b' } }",
        "{ url = 'a', headers = { x = 'a\\nb' } }", "{ url = 'a', headers = { ['x\\r\\ny'] = 'a' } }",
        "{ url = 'a', headers = { ['x:'] = 'a' } }", "{ url = 'a', headers = { [''] = 'a' } }",
        "{ url = 'a', headers = { Host = 'a' } }", "{ url = 'a', headers = { ['Content-Length'] = '1' } }",
        "{ url = 'a', headers = { ['transfer-encoding'] = 'chunked' } }",
        "{ url = 'a', headers = { x = ('x'):rep(16384) } }",
        "{ url = 'a', timeout = 0 }", "{ url = 'a', timeout = 0/0 }", "{ url = 'a', timeout = '1' }",
        "{ url = 'a', redirects = 6 }", "{ url = 'a', redirects = -1 }", "{ url = 'a', header = {} }", "{ 'a' }",
    ])
    func `a request that cannot be one is refused`(request: String) throws {
        let bench = try Bench()
        #expect(bench.eval("return (select(2, relay.http(\(request))))").json == #""bad_parameters""#)
        #expect(bench.host.requests.isEmpty)
    }

    @Test func `headers are counted`() throws {
        let bench = try Bench()
        let make =
            "local h = {} for i = 1, %d do h['x' .. i] = '' end return (select(2, relay.http { url = 'a', headers = h }))"
        #expect(bench.eval(make.replacing("%d", with: "65")).json == #""bad_parameters""#)
        #expect(bench.eval(make.replacing("%d", with: "64")) == .suspended)
    }

    @Test func `a request ends with its call's time, and the call with it`() throws {
        let bench = try Bench { $0.callTime = .milliseconds(20) }
        let id = bench.nextCall()
        bench.eval("relay.http { url = 'http://a', timeout = 100 } while true do end", id: id)
        let request = try #require(bench.host.requests.first)
        #expect(request.timeout <= .milliseconds(20))
        let failure = OutboundFailure(.timeout, "too late")
        bench.engine.answered(ScriptRequestID(rawValue: 1), .failure(failure))
        #expect(bench.host.finished[id]?.failure?.code == .budgetExceeded)
    }

    @Test func `bodies count as output`() throws {
        let bench = try Bench { $0.outputBytesPerCall = 1_000 }
        #expect(bench.eval("relay.http { url = 'a', body = ('x'):rep(1000) }") == .suspended)
        #expect(bench.eval("relay.http { url = 'a', body = ('x'):rep(1001) }").failure?.code == .outputExceeded)
    }

    @Test func `an answer that memory does not hold fails its call alone`() throws {
        let bench = try Bench { $0.memoryBytes = 2 << 20 }
        let id = bench.nextCall()
        bench.eval("return #select(3, relay.http { url = 'a' })", id: id)
        let large = OutboundResponse(status: 200, headers: [], body: Array(repeating: 1, count: 4 << 20))
        bench.engine.answered(ScriptRequestID(rawValue: 1), .success(large))
        #expect(bench.host.finished[id]?.failure?.code == .memoryExceeded)
        #expect(bench.eval("return 1").json == "1")
    }

    @Test func `hooks and timers wait for an answer; a load and a coroutine cannot`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on("open", function() seen = relay.http { url = "http://open" } end)
            relay.on("handshake", function() return relay.http { url = "http://handshake" } == 200 end)
            """)
        #expect(bench.call(bench.chain(.open), .open(connection: ConnectionID(rawValue: 1))) == .suspended)
        #expect(bench.call(bench.chain(.handshake), .handshake(connection: ConnectionID(rawValue: 1))) == .suspended)
        bench.eval("relay.after(0, function() late = relay.http { url = 'http://timer' } end)")
        bench.fireAll()
        #expect(bench.host.requests.map(\.url) == ["http://open", "http://handshake", "http://timer"])
        for request in 1...3 { bench.engine.answered(ScriptRequestID(rawValue: UInt64(request)), .success(ok)) }
        #expect(bench.eval("return { seen, late }").json == "[200,200]")
        #expect(bench.eval("return coroutine.wrap(function() relay.http { url = 'a' } end)()").failure != nil)
        #expect(throws: ScriptFailure.self) { try bench.load("relay.http { url = 'http://a' }") }
        // Nobody waits for an answer that comes twice.
        bench.engine.answered(ScriptRequestID(rawValue: 1), .success(ok))
    }

    @Test func `settings that change are read anew`() throws {
        let bench = try Bench()
        bench.host.configJSON = #"{"a":"1"}"#
        #expect(bench.eval("return relay.config.a").json == #""1""#)
        bench.host.configJSON = #"{"a":"2"}"#
        #expect(bench.eval("return relay.config.a").json == #""1""#)
        bench.engine.configurationChanged()
        #expect(bench.eval("return relay.config.a").json == #""2""#)
    }

    @Test func `a connection is paused and resumed`() throws {
        let bench = try Bench()
        try bench.add(
            "f", "function(conn) return { conn:pause(), conn:resume(), conn:pause(), conn:takeMessages() } end")
        #expect(bench.call("f").json == "[true,true,true,true]")
        #expect(bench.host.held == [1])
    }
}
