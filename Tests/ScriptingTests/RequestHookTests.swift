import Relay
import Testing

@testable import Scripting

@Suite struct RequestHookTests {
    private static let plain = "Content-Type: text/plain; charset=utf-8\r\n"

    @discardableResult
    private func request(
        _ bench: Bench, _ method: String = "GET", _ body: String = "", serial: UInt64 = 5
    ) -> Ending {
        Array(body.utf8).withUnsafeBytes {
            bench.call(
                bench.chain(.request),
                .request(
                    connection: ConnectionID(rawValue: 9), serial: CallID(rawValue: serial), method: method, body: $0),
                wantsResult: false)
        }
    }

    @Test(
        arguments: [
            ("", .returned(nil)), ("nil, {}, 'not looked at'", .returned(nil)),
            ("200", .response(200, fields: "", body: "")), ("599, nil, nil", .response(599, fields: "", body: "")),
            ("200, {}, ''", .response(200, fields: "", body: "")),
            ("200, nil, 'a\\0b'", .response(200, fields: plain, body: "a\0b")),
            ("200, { ['CONTENT-TYPE'] = 'x' }, 'a'", .response(200, fields: "CONTENT-TYPE: x\r\n", body: "a")),
            ("200, { A = 'b\\tc é' }", .response(200, fields: "A: b\tc é\r\n", body: "")),
            ("200, { A = '' }", .response(200, fields: "A: \r\n", body: "")),
            ("200, { A = 7 }", .response(200, fields: "A: 7\r\n", body: "")),
            ("200, { A = { 'b', 'c' } }", .response(200, fields: "A: b\r\nA: c\r\n", body: "")),
            ("200, { A = {} }", .response(200, fields: "", body: "")),
            ("204", .response(204, fields: "", body: "")), ("304, nil, ''", .response(304, fields: "", body: "")),
            (
                "200, { A = ('x'):rep(65531) }",
                .response(200, fields: "A: " + String(repeating: "x", count: 65531) + "\r\n", body: "")
            ),
        ] as [(String, Ending)])
    func `what a request hook returns is the response`(values: String, ending: Ending) throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('request', function() end)
            relay.on('request', function() return \(values) end)
            relay.on('request', function() reached = true end)
            """)
        #expect(request(bench) == ending)
        #expect(bench.eval("reached == true") == .returned(ending == .returned(nil) ? "true" : "false"))
    }

    @Test(arguments: [
        ("true", "a status"), ("false", "a status"), ("199", "a status"), ("600", "a status"), ("100", "a status"),
        ("200.0", "a status"), ("'200'", "a status"), ("{}", "a status"), ("math.mininteger", "a status"),
        ("200, 'x'", "headers"), ("200, true", "headers"), ("200, nil, 1", "body"), ("200, nil, {}", "body"),
        ("200, nil, true", "body"), ("204, nil, 'x'", "no body"), ("205, nil, 'x'", "no body"),
        ("304, nil, 'x'", "no body"), ("200, { 'x' }", "name of a header"), ("200, { [''] = 'x' }", "no token"),
        ("200, { ['a b'] = 'x' }", "no token"), ("200, { ['a:'] = 'x' }", "no token"),
        ("200, { ['a\\r\\nb'] = 'x' }", "no token"), ("200, { ['a\\0'] = 'x' }", "no token"),
        ("200, { ['é'] = 'x' }", "no token"), ("200, { A = 'b\\r\\nC: d' }", "control"),
        ("200, { A = 'b\\nC' }", "control"), ("200, { A = 'b\\rC' }", "control"), ("200, { A = 'b\\0' }", "control"),
        ("200, { A = '\\127' }", "control"), ("200, { A = true }", "a text or a list"),
        ("200, { A = 1.5 }", "a text or a list"), ("200, { A = { 'b', {} } }", "a text or a list"),
        ("200, { A = { 'b', 'c\\n' } }", "control"), ("200, { ['Content-Length'] = '1' }", "the relay's to set"),
        ("200, { ['transfer-encoding'] = 'chunked' }", "the relay's to set"),
        ("200, { CONNECTION = 'close' }", "the relay's to set"), ("200, { Upgrade = 'x' }", "the relay's to set"),
        ("200, { ['Keep-Alive'] = 'x' }", "the relay's to set"), ("200, { Trailer = 'x' }", "the relay's to set"),
        ("200, { A = many }", "100 header lines"), ("200, { A = ('x'):rep(65532) }", "65536 bytes"),
    ])
    func `anything else is an error of the hook, in its place`(values: String, words: String) throws {
        let bench = try Bench()
        try bench.load(
            """
            many = {} for i = 1, 101 do many[i] = 'x' end
            relay.on('request', function(request)
              return \(values)
            end)
            """)
        let failure = try #require(request(bench).failure)
        #expect(failure.code == .scriptError && failure.file == "test.lua" && failure.line == 2)
        #expect(failure.message.hasPrefix("test.lua:2: ") && failure.message.contains(words), "\(failure.message)")
    }

    @Test func `an answer has the budget of a call's output`() throws {
        let bench = try Bench { $0.outputBytesPerCall = 1000 }
        try bench.load("relay.on('request', function(r) return 200, { ['Content-Type'] = 'x' }, r.body end)")
        let fields = "Content-Type: x\r\n"
        let most = String(repeating: "x", count: 1000 - fields.utf8.count)
        #expect(request(bench, "PUT", most) == .response(200, fields: fields, body: most))
        #expect(request(bench, "PUT", most + "x").failure?.code == .outputExceeded)
    }

    @Test func `the hook gets the request, and nothing of the connection`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('request', function(r)
              return 200, nil, json.encode { r.method, r.path, r.query, r.headers.host, r.body, r.remoteAddress,
                r.isAdmin, r.connection == nil, r.tls == nil, r.port }
            end)
            """)
        let body = #"["PUT","\/here","a=b","example.org","hi","192.0.2.9",false,true,true,8087]"#
        #expect(request(bench, "PUT", "hi") == .response(200, fields: Self.plain, body: body))
    }

    @Test func `may asks for the rights of this very request`() throws {
        let bench = try Bench()
        bench.host.rights = ["9 5 admin", "9 6 invoke:x"]
        try bench.load(
            """
            relay.on('request', function(r)
              first = first or r
              return 200, nil, table.concat({ tostring(r.may('admin')), tostring(r.may('invoke:x')),
                tostring(first.may('admin')), tostring(pcall(r.may, '')), tostring(pcall(r.may)) }, ' ')
            end)
            """)
        #expect(request(bench, serial: 5) == .response(200, fields: Self.plain, body: "true false true false false"))
        #expect(request(bench, serial: 6) == .response(200, fields: Self.plain, body: "false true true false false"))
    }

    @Test func `a hook may sleep before it answers, and so may the next`() throws {
        let bench = try Bench()
        try bench.load(
            """
            relay.on('request', function() relay.sleep(1) end)
            relay.on('request', function(r)
              relay.sleep(1)
              if r.method == 'A' then return 200, { X = 'y' }, r.body .. '!' end
              if r.method == 'B' then return {} end
            end)
            """)
        for method in ["A", "B", "C"] { #expect(request(bench, method, "body") == .suspended) }
        for _ in 1...2 {
            #expect(bench.host.finished.isEmpty)
            bench.fireAll()
        }
        let ended = bench.host.finished.sorted { $0.key.rawValue < $1.key.rawValue }.map(\.value)
        #expect(ended.count == 3)
        #expect(ended[0] == .response(200, fields: "X: y\r\n" + Self.plain, body: "body!"))
        #expect(ended[1].failure?.line == 2)
        #expect(ended[2] == .returned(nil))
    }

    @Test func `a result that is a table has no text that JSON cannot carry`() throws {
        let bench = try Bench()
        #expect(bench.eval("{ 'é' }") == .returned(#"["é"]"#))
        for value in ["{ '\\xff' }", "{ ['\\xff'] = 1 }", "{ { a = '\\xed\\xa0\\x80' } }"] {
            let failure = try #require(bench.eval(value).failure)
            #expect(failure.code == .scriptError && failure.message.contains("not valid UTF-8"), "\(failure.message)")
        }
    }
}
