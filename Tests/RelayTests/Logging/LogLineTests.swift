import Logging
import Testing

@testable import Relay

@Suite struct LogLineTests {
    static let time = CivilTime(secondsSince1970: 1_795_224_123, nanoseconds: 123_999_999)

    func text(_ message: String, _ metadata: Logger.Metadata = [:], _ level: Logger.Level = .info) -> String {
        String(
            decoding: LogLine.make(.text, time: Self.time, level: level, message: message, metadata: metadata),
            as: UTF8.self)
    }

    func json(_ message: String, _ metadata: Logger.Metadata = [:]) -> String {
        String(
            decoding: LogLine.make(.json, time: Self.time, level: .info, message: message, metadata: metadata),
            as: UTF8.self)
    }

    @Test func `an entry is one line: time, level, message, sorted values`() {
        #expect(
            text("listening", ["b": "2", "a": "ws://127.0.0.1:8087"])
                == "2026-11-21T01:22:03.123Z info  listening a=ws://127.0.0.1:8087 b=2\n")
        #expect(text("slow", [:], .warning) == "2026-11-21T01:22:03.123Z warning slow\n")
    }

    @Test func `values are quoted where a reader could not tell their end`() {
        #expect(text("x", ["k": ""]).hasSuffix(" x k=\"\"\n"))
        #expect(text("x", ["k": "a b"]).hasSuffix(" k=\"a b\"\n"))
        #expect(text("x", ["k": "a=b"]).hasSuffix(" k=\"a=b\"\n"))
        #expect(text("x", ["k": "say \"hi\" \\"]).hasSuffix(" k=\"say \\\"hi\\\" \\\\\"\n"))
        #expect(text("x", ["a b\n": "1"]).hasSuffix(" a_b_=1\n"))
    }

    @Test(arguments: [
        "a\nb", "a\rb", "a\r\nb", "\u{1b}[2J", "\u{0}", "\u{7f}", "\u{85}", "\u{9b}31m", "\u{2028}", "\u{202e}gnp.exe",
        "2026 info  forged\n2026 info  line",
    ])
    func `nothing that a peer sends starts a line or drives a terminal (case 72)`(_ hostile: String) {
        for line in [text(hostile), text("x", ["k": "\(hostile)"]), json(hostile), json("x", ["k": "\(hostile)"])] {
            #expect(line.hasSuffix("\n"))
            #expect(!line.dropLast().unicodeScalars.contains(where: LogLine.mustEscape))
        }
    }

    @Test func `invalid UTF-8 becomes the replacement character`() {
        let repaired = String(decoding: [0x61, 0xff, 0xc3, 0x62] as [UInt8], as: UTF8.self)
        #expect(text("x", ["k": "\(repaired)"]).hasSuffix(" k=a\u{fffd}\u{fffd}b\n"))
    }

    @Test func `a long text is cut and says how long it was`() {
        let line = text("x", ["k": "\(String(repeating: "y", count: 100_000))"])
        #expect(line.utf8.count < LogLine.longestText + 200)
        #expect(line.hasSuffix("y… (100000 bytes)\n"))
    }

    @Test func `JSON keeps structure, escapes, and holds each name once`() {
        #expect(
            json("a \"b\"\n", ["level": "mine", "list": ["x", "y"], "map": ["k": "v"], "n": "\u{1b}"])
                == "{\"time\":\"2026-11-21T01:22:03.123Z\",\"level\":\"info\",\"message\":\"a \\\"b\\\"\\u000a\","
                + "\"level_\":\"mine\",\"list\":[\"x\",\"y\"],\"map\":{\"k\":\"v\"},\"n\":\"\\u001b\"}\n")
    }

    @Test(arguments: [
        (0, "1970-01-01T00:00:00.000Z"), (951_782_399, "2000-02-28T23:59:59.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"), (951_868_800, "2000-03-01T00:00:00.000Z"),
        (4_107_542_399, "2100-02-28T23:59:59.000Z"), (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.000Z"), (1_709_164_800, "2024-02-29T00:00:00.000Z"),
        (253_402_300_799, "9999-12-31T23:59:59.000Z"),
    ])
    func `seconds become the civil date`(_ seconds: Int64, _ expected: String) {
        var bytes: [UInt8] = []
        CivilTime(secondsSince1970: seconds, nanoseconds: 0).append(to: &bytes)
        #expect(String(decoding: bytes, as: UTF8.self) == expected)
    }
}

@Suite struct LogQueueTests {
    static let second: Int64 = 1_000_000_000

    @Test func `lines beyond the rate are counted and told once, when their second is over`() {
        var queue = LogQueue()
        for _ in 0..<LogQueue.linesPerSecond + 7 { queue.append([0x0a], now: 5 * Self.second) }
        #expect(queue.takeBytes().count == LogQueue.linesPerSecond)
        #expect(queue.takeGap(now: 5 * Self.second + 1) == nil)
        #expect(queue.gapDelay(now: 5 * Self.second + 1) == Self.second - 1)
        #expect(queue.takeGap(now: 6 * Self.second) == LogQueue.Gap(suppressed: 7))
        #expect(queue.takeGap(now: 6 * Self.second) == nil)
        #expect(queue.gapDelay(now: 6 * Self.second) == nil)
        queue.append([0x0a], now: 6 * Self.second)
        #expect(queue.bytes.count == 1)
    }

    @Test func `a full queue counts instead of growing`() {
        var queue = LogQueue()
        let line = [UInt8](repeating: 0x61, count: LogQueue.maximumBytes / 4)
        for _ in 0..<6 { queue.append(line, now: Self.second) }
        #expect(queue.bytes.count == LogQueue.maximumBytes)
        #expect(queue.gapDelay(now: Self.second) == 0)
        #expect(queue.takeGap(now: Self.second) == LogQueue.Gap(dropped: 2))
    }

    @Test func `what could not be written is told with the next chance`() {
        var queue = LogQueue()
        queue.append([0x0a], now: 0)
        _ = queue.takeBytes()
        queue.putBack(LogQueue.Gap(dropped: 3, suppressed: 2))
        #expect(queue.takeGap(now: 0, isLast: true) == LogQueue.Gap(dropped: 3, suppressed: 2))
    }
}
