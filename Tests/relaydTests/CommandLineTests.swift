import Relay
import RelayClient
import Testing

@testable import relayd

@Suite struct CommandLineTests {
    @Test func `columns are aligned and hostile text is shown, not obeyed`() {
        #expect(
            table(["NAME", "N"], [["a", "1"], ["longer", ""], ["\u{1b}[2J", "2"]])
                == "NAME       N\na          1\nlonger\n\\u{1b}[2J  2")
        #expect(printable("a\nb\u{202e}") == "a\\u{a}b\\u{202e}")
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
