import Relay
import Testing

@testable import relayd

@Suite struct CommandLineTests {
    @Test(arguments: [
        ("ws://127.0.0.1:8087", "127.0.0.1:8087", "/"), ("ws://example.com", "example.com", "/"),
        ("wss://example.com/app/x?auth=y", "example.com", "/app/x?auth=y"), ("wss://[::1]:9", "[::1]:9", "/"),
        ("ws://h:1?auth=t", "h:1", "/?auth=t"), ("unix:/run/r?auth=t", "localhost", "/?auth=t"),
    ])
    func `a relay's URL becomes Host and target`(_ text: String, _ host: String, _ target: String) throws {
        let url = try RelayURL(parsing: text)
        #expect(url.hostField == host)
        #expect(url.target == target)
        #expect(!"\(url)".contains("auth"))
    }

    @Test(arguments: [
        "", "127.0.0.1:8087", "http://a", "ws://", "ws://:1", "ws://a:", "ws://a:0", "ws://a:65536", "ws://u@a:1",
        "ws://a:1#f", "unix:", "ws://a b", "ws://a\r\nX: y",
    ])
    func `what is no URL of a relay is refused`(_ text: String) {
        let failure = #expect(throws: ClientFailure.self) { try RelayURL(parsing: text) }
        #expect(failure?.kind == .refused)
        #expect(failure?.description.contains("\n") == false)
    }

    @Test func `an app is a path, and excludes another path`() throws {
        #expect(try RelayURL(parsing: "ws://a:1?auth=t").app("x-1").target == "/app/x-1?auth=t")
        #expect(try RelayURL(parsing: "ws://a:1").app("default").target == "/")
        #expect(throws: ClientFailure.self) { try RelayURL(parsing: "ws://a:1/app/y").app("x") }
        #expect(throws: ClientFailure.self) { try RelayURL(parsing: "ws://a:1").app("x/../y") }
    }

    @Test func `a request is one JSON object with what was given`() {
        #expect(
            RelayConnection.requestText("x \"y\"", .array([.integer(1), .null]), credential: "c", id: 7)
                == #"{"credential":"c","id":7,"instruction":"x \"y\"","parameters":[1,null]}"#)
        #expect(RelayConnection.requestText("x", nil) == #"{"instruction":"x"}"#)
    }

    @Test func `JSON keeps integers whole and tells booleans from numbers`() throws {
        #expect(JSONValue(json: "9007199254740993") == .integer(9_007_199_254_740_993))
        #expect(JSONValue(json: "1.5") == .number(1.5))
        #expect(JSONValue(json: "true") == .bool(true))
        #expect(JSONValue(json: "1") == .integer(1))
        #expect(JSONValue(json: "\"a\"") == .string("a"))
        #expect(JSONValue(json: "box") == nil)
        #expect(JSONValue(json: "{\"a\":[null]}")?.json() == "{\"a\":[null]}")
    }

    @Test func `columns are aligned and hostile text is shown, not obeyed`() {
        #expect(
            table(["NAME", "N"], [["a", "1"], ["longer", ""], ["\u{1b}[2J", "2"]])
                == "NAME       N\na          1\nlonger\n\\u{1b}[2J  2")
        #expect(printable("a\nb\u{202e}") == "a\\u{a}b\\u{202e}")
    }

    @Test func `the accept key is RFC 6455's example`() {
        #expect(
            Digest.webSocketAccept(key: Array("dGhlIHNhbXBsZSBub25jZQ==".utf8)) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    }

    @Test func `every error code, close code and limit is explained, and nothing else`() {
        for code in ErrorCode.allCases { #expect(ExplainCommand.explanation(of: code.rawValue) != nil) }
        for code in CloseCode.all { #expect(ExplainCommand.explanation(of: "\(code.rawValue)") != nil) }
        for limit in Limits.descriptors { #expect(ExplainCommand.explanation(of: limit.name) != nil) }
        #expect(ExplainCommand.explanation(of: "nonsense") == nil)
        #expect(ExplainCommand.explanation(of: "99") == nil)
    }

    @Test func `a script's failure names the path that was given`() {
        func sentence(_ message: String, _ path: String) -> String {
            CheckCommand.sentence(of: ScriptFailure(code: .compileError, message: message), path)
        }
        #expect(sentence("a.lua:3: unexpected symbol", "scripts/a.lua") == "scripts/a.lua:3: unexpected symbol")
        #expect(sentence("out of memory", "scripts/a.lua") == "scripts/a.lua: out of memory")
        #expect(sentence("scripts/a.lua: not UTF-8 text", "scripts/a.lua") == "scripts/a.lua: not UTF-8 text")
    }

    @Test func `a usage error is one sentence`() {
        #expect(usageSentence("Pick one:\n  - a\n  - b") == "Pick one: a, b.")
        #expect(usageSentence("Done.") == "Done.")
    }
}

@Suite struct DemoReportTests {
    @Test func `what is lost, late or doubled shows`() {
        var way = DemoReport.Way()
        way.sent = 5
        for number in [0, 2, 1, 2] { way.receive(number) }
        #expect(way.received == 4)
        #expect(way.reordered == 2)
        #expect(way.lost == 2)
    }

    @Test func `a demo in which nothing was replaced is not clean`() {
        var report = DemoReport()
        report.toServer.sent = 1
        report.toServer.receive(0)
        #expect(!report.isClean)
        report.replacedAfter = 1
        report.forwardedByNewVersion = 1
        #expect(report.isClean)
        report.socketsClosed = 1
        #expect(!report.isClean)
    }
}
