import Relay
import Testing

@testable import Scripting

@Suite struct CallTests {
    @Test func `an instruction gets its connection and positional parameters, and its result comes back as JSON`()
        throws
    {
        let bench = try Bench()
        try bench.add("add", "function(conn, a, b) conn:send(a .. '+' .. b) return a + b end")
        #expect(bench.call("add", "[1, 2]", connection: 7) == .returned("3"))
        #expect(bench.host.sent == [.init(connection: 7, text: "1+2")])
    }

    @Test func `an object is passed as one table`() throws {
        let bench = try Bench()
        try bench.add("named", "function(conn, p) return p.a .. p.b[2] end")
        #expect(bench.call("named", #"{"a": "x", "b": [1, "y"]}"#) == .returned(#""xy""#))
    }

    @Test func `no result is made where none is wanted`() throws {
        let bench = try Bench()
        try bench.add("f", "function() return print end")
        #expect(bench.call("f", wantsResult: false) == .returned(nil))
    }

    @Test(arguments: [
        ("nil", "null"), ("", "null"), ("true", "true"), ("false", "false"), ("12", "12"), ("-0.5", "-0.5"),
        ("1e300", "1e+300"), ("0.1", "0.1"), ("1/3", "0.33333333333333331"), ("2^53", "9007199254740992"),
        ("math.mininteger", "-9223372036854775808"), (#"'a"b\\\n\1é'"#, #""a\"b\\\n\u0001é""#), ("{1, 2}", "[1,2]"),
        ("{a = 1}", #"{"a":1}"#), ("'first', 'second'", #""first""#),
    ])
    func `a value is encoded as JSON`(lua: String, json: String) throws {
        let bench = try Bench()
        try bench.add("f", "function() return \(lua) end")
        #expect(bench.call("f") == .returned(json))
    }

    @Test(arguments: ["print", "0/0", "1/0", "'\\xff'", "coroutine.create(print)", "{print}", "{[{}] = 1}"])
    func `a value that JSON cannot carry is a failure`(lua: String) throws {
        let bench = try Bench()
        try bench.add("f", "function() return \(lua) end")
        #expect(bench.call("f").failure?.code == .scriptError)
        #expect(bench.call("f", wantsResult: false) == .returned(nil))
    }

    @Test(arguments: [
        ("[]", "0"), (" [ ] ", "0"), ("null", "0"), ("[null]", "1 nil"), ("[1]", "1 integer 1"),
        ("[-0]", "1 integer 0"),
        ("[1.0]", "1 integer 1"), ("[1e2]", "1 integer 100"), ("[1.5]", "1 float 1.5"),
        ("[9223372036854775807]", "1 integer 9223372036854775807"),
        ("[-9223372036854775808]", "1 integer -9223372036854775808"),
        ("[9223372036854775808]", "1 float 9.2233720368548e+18"), ("[true,false]", "2 true false"),
        (#"["a","\u00e9\ud83d\ude00\n\"\/"]"#, "2 a é😀\n\"/"), (#"["é"]"#, "1 é"), (#"[""]"#, "1 "),
        (#"[[1,"]"],{"a":"}"}]"#, "2 table table"), (#"["a\\"]"#, #"1 a\"#),
    ])
    func `parameters become Lua values`(json: String, expected: String) throws {
        let bench = try Bench()
        try bench.add(
            "f",
            """
            function(conn, ...)
              local t = table.pack(...)
              local out = { tostring(t.n) }
              for i = 1, t.n do
                local v = t[i]
                if math.type(v) then out[#out + 1] = math.type(v) end
                out[#out + 1] = type(v) == 'table' and 'table' or tostring(v)
              end
              conn:send(table.concat(out, ' '))
            end
            """)
        #expect(bench.call("f", json) == .returned("null"))
        #expect(bench.host.sent.map(\.text) == [expected])
    }

    @Test(arguments: [
        "", "[", "]", "[1,]", "[,1]", "[1 2]", "[01]", "[1.]", "[.5]", "[1e]", "[-]", "[+1]", "[tru]", "[nul", "[NaN]",
        "[\"a]", "[\"\\x\"]", "[\"\\u12\"]", "[\"\\ud800\"]", "[\"\\udc00\"]", "[\"\\ud800\\u0041\"]", "[\"\n\"]",
        "[[1]",
        "[{]", "{", "{\"a\"}", "[{\"a\":}]", "[1] 2", "{} {}", "5", "\"a\"", "true", "[1]]", "[\"\\", "[\"\\u", "[[}]",
        "[\"\\ud800\\u\"]", "nulll",
    ])
    func `parameters that are no JSON array or object are refused`(json: String) throws {
        let bench = try Bench()
        try bench.add("f", "function(conn) conn:send('called') end")
        #expect(bench.call("f", json).failure?.code == .badParameters)
        #expect(bench.host.sent.isEmpty)
        #expect(bench.call("f", "[]") == .returned("null"))
    }

    @Test func `at most 250 parameters are passed by position`() throws {
        let bench = try Bench()
        try bench.add("f", "function(conn, ...) return select('#', ...) end")
        func list(_ count: Int) -> String { "[" + Array(repeating: "1", count: count).joined(separator: ",") + "]" }
        #expect(bench.call("f", list(250)) == .returned("250"))
        #expect(bench.call("f", list(251)).failure?.code == .badParameters)
    }

    @Test func `an error carries code, file, line, instruction, generation and traceback`() throws {
        let bench = try Bench()
        try bench.add("boom", "function(conn)\n  local function inner() error('no luck') end\n  inner()\nend")
        let failure = try #require(bench.call("boom").failure)
        #expect(failure.code == .scriptError)
        #expect(failure.message == "boom:2: no luck")
        #expect(failure.file == "boom")
        #expect(failure.line == 2)
        #expect(failure.instruction == "boom")
        #expect(failure.generation == 1)
        #expect(failure.traceback?.contains("boom:3:") == true)
        #expect(failure.traceback?.contains("[C]: in ?") == false)
    }

    @Test func `after an error the pending close variables run`() throws {
        let bench = try Bench()
        try bench.add(
            "f",
            """
            function(conn)
              local guard <close> = setmetatable({}, { __close = function(_, e) conn:send('closed after ' .. e) end })
              error('x', 0)
            end
            """)
        #expect(bench.call("f").failure?.message == "x")
        #expect(bench.host.sent.map(\.text) == ["closed after x"])
    }

    @Test func `eval takes an expression or statements, and sees the globals`() throws {
        let bench = try Bench()
        #expect(bench.eval("1 + 1") == .returned("2"))
        #expect(bench.eval("counter = 5") == .returned("null"))
        #expect(bench.eval("local x = counter * 2 return x") == .returned("10"))
        #expect(bench.eval("(...).id") == .returned("1"))
        let failure = try #require(bench.eval("x ==").failure)
        #expect(failure.code == .compileError)
        #expect(failure.message.hasPrefix("eval:1:"))
    }

    @Test func `a message hook gets its bytes and its kind`() throws {
        let bench = try Bench()
        try bench.load("relay.on('message', function(conn, data, kind) conn:send(kind .. #data) end)")
        let chain = bench.chain(.message)
        let bytes: [UInt8] = [0, 255, 7]
        _ = bytes.withUnsafeBytes {
            bench.call(chain, .message(connection: ConnectionID(rawValue: 3), bytes: $0, isText: false))
        }
        bench.call(
            chain,
            .message(
                connection: ConnectionID(rawValue: 3), bytes: UnsafeRawBufferPointer(start: nil, count: 0), isText: true
            ))
        #expect(bench.host.sent.map(\.text) == ["binary3", "text0"])
    }

    @Test func `a string and a table give a line for people and the result`() throws {
        let bench = try Bench()
        let unit = try bench.engine.stage(
            instruction: "f", body: "function(conn, line) return line, { ok = true } end", isPublic: true)
        bench.engine.commit(unit)
        func lines(_ line: String) -> [String?] {
            var parameters = "[\"\(line)\"]"
            return parameters.withUTF8 { bytes in
                let outcome = bench.engine.call(
                    unit.instructions[0].function, name: .fixed("f"),
                    arguments: .instruction(
                        connection: ConnectionID(rawValue: 1), parameters: UnsafeRawBufferPointer(bytes)),
                    id: bench.nextCall(), wantsResult: true)
                guard case .returned(let json, let line) = outcome else { return [] }
                return [json, line].map { $0.map { String(decoding: $0, as: UTF8.self) } }
            }
        }
        #expect(lines("done") == [#"{"ok":true}"#, "done"])
        // A long line is cut between characters.
        let long = "x" + String(repeating: "é", count: 1000)
        #expect(lines(long) == [#"{"ok":true}"#, String(long.prefix(512))])
    }
}
