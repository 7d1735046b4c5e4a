import Testing

@testable import Relay

@Suite struct `Body of a request` {
    /// What a decoder makes of bytes that come in pieces: the body and how many bytes it took, or the status.
    private enum Outcome: Equatable {
        case body(String, used: Int)
        case incomplete
        case refused(Int)
    }

    private func decode(
        _ text: String, _ framing: RequestFraming = .chunked, maximumBytes: Int = 1000, pieces: Int = .max
    ) -> Outcome {
        guard var decoder = RequestBodyDecoder(framing, maximumBytes: maximumBytes) else { return .refused(413) }
        let bytes = Array(text.utf8)
        var body: [UInt8] = []
        var start = 0
        repeat {
            let piece = bytes[start...].prefix(pieces)
            var offset = 0
            let outcome: Outcome? = piece.withUnsafeBytes { piece in
                while true {
                    switch decoder.next(piece, &offset) {
                    case .data(let range): body += piece[range]
                    case .end: return .body(String(decoding: body, as: UTF8.self), used: start + offset)
                    case .refused(let status, _): return .refused(status.code)
                    case .incomplete: return nil
                    }
                }
            }
            if let outcome {
                if case .body = outcome { #expect(decoder.isDone) }
                return outcome
            }
            #expect(!decoder.isDone && offset == piece.count)
            start += piece.count
        } while start < bytes.count
        return .incomplete
    }

    @Test(arguments: [
        ("0\r\n\r\n", ""), ("5\r\nhello\r\n0\r\n\r\n", "hello"), ("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"), ("A\r\n0123456789\r\n000\r\n\r\n", "0123456789"),
        ("000000000000001\r\na\r\n0\r\n\r\n", "a"), ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
        ("1;x\r\na\r\n0;y=z\r\n\r\n", "a"), ("1;x=\"a b\";y\r\na\r\n0\r\n\r\n", "a"),
        ("0\r\nX: y\r\n\r\n", ""), ("0\r\nX: y\r\nZ:\r\n\r\n", ""), ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
    ])
    func `chunks are put together, whole, byte by byte and at every split`(text: String, body: String) {
        for pieces in 1...(text.utf8.count + 1) {
            #expect(decode(text + "GET /", pieces: pieces) == .body(body, used: text.utf8.count))
        }
        for count in 0..<text.utf8.count {
            #expect(decode(String(decoding: text.utf8.prefix(count), as: UTF8.self)) == .incomplete)
        }
    }

    @Test(arguments: [
        "\r\n", "g\r\n", "-1\r\n", "+1\r\n", "0x1\r\n", " 1\r\n", "1 \r\n", "1\n", "1\r\r", "1\rx", ";x\r\n",
        "1;\n", "1;a\rb", "1;a\0b", "1;a\u{7F}b", "1\r\nab", "1\r\na\n", "1\r\na\rx", "1\r\na\r\n\r\n", "0\r\n\n",
        "0\r\n\rx", "0\r\n x: y\r\n", "0\r\n\tx", "0\r\n:\r\n", "0\r\nX: y\n", "0\r\nX: y\rz", "0\r\nX: \0",
        "0\r\nX: y\r\n z",
    ])
    func `case 31: what could be understood in two ways is refused`(_ text: String) {
        for pieces in [1, 2, 3, .max] { #expect(decode(text, pieces: pieces) == .refused(400)) }
    }

    @Test func `case 33: a body has its limit, in one chunk and in many`() {
        #expect(decode("a\r\n0123456789\r\n0\r\n\r\n", maximumBytes: 10) == .body("0123456789", used: 20))
        #expect(decode("b\r", maximumBytes: 10) == .refused(413))
        #expect(decode("5\r\n01234\r\n6;", maximumBytes: 10) == .refused(413))
        #expect(decode("fffffffffffffff\r", maximumBytes: 10) == .refused(413))
        #expect(decode("0000000000000000", maximumBytes: 10) == .refused(413))
        #expect(decode("0\r\n\r\n", maximumBytes: 0) == .body("", used: 5))
        #expect(decode("1\r\n", maximumBytes: 0) == .refused(413))
    }

    @Test func `extensions and trailers have a limit together`() {
        let most = RequestBodyDecoder.maximumExtraBytes
        let half = String(repeating: "x", count: most / 2)
        #expect(decode("1;\(half)\r\na\r\n0\r\n\(half)\r\n\r\n") == .body("a", used: most + 14))
        #expect(decode("1;\(half)\r\na\r\n0\r\n\(half)x") == .refused(400))
        #expect(decode(String(repeating: "1;\(half)\r\na\r\n", count: 3)) == .refused(400))
        #expect(decode("0\r\n" + String(repeating: "x:\r\n", count: most)) == .refused(400))
    }

    @Test func `a length is counted down, and what follows is none of it`() {
        for pieces in 1...12 {
            #expect(decode("hello world", .length(5), pieces: pieces) == .body("hello", used: 5))
        }
        #expect(decode("hell", .length(5)) == .incomplete)
        #expect(decode("x", .length(0)) == .body("", used: 0))
        #expect(RequestBodyDecoder(.length(0), maximumBytes: 0)?.isDone == true)
        #expect(RequestBodyDecoder(.length(10), maximumBytes: 10)?.isDone == false)
        #expect(decode("", .length(11), maximumBytes: 10) == .refused(413))
        #expect(decode("", .length(.max), maximumBytes: 10) == .refused(413))
    }

    // MARK: Which framing

    private func framing(_ fields: String, version: Int = 1) -> RequestFraming? {
        let text = "PUT / HTTP/1.\(version)\r\nHost: a\r\n\(fields.isEmpty ? "" : fields + "\r\n")\r\n"
        let result = Array(text.utf8).withUnsafeBytes { RequestHeadParser.parse($0, maximumBytes: 1 << 14) }
        guard case .head(let head, _) = result else { return nil }
        return head.framing
    }

    @Test(
        arguments: [
            ("", .length(0)), ("Content-Length: 0", .length(0)), ("content-length:  17\t", .length(17)),
            ("Content-Length: 007", .length(7)),
            ("Content-Length: 999999999999999999", .length(999_999_999_999_999_999)),
            ("Transfer-Encoding: chunked", .chunked), ("transfer-encoding: CHUNKED ", .chunked),
        ] as [(String, RequestFraming)])
    func `a body is delimited by a length or by chunks`(fields: String, expected: RequestFraming) {
        #expect(framing(fields) == expected)
    }

    @Test(arguments: [
        "Content-Length: 5, 5", "Content-Length: 5\r\nContent-Length: 5", "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: +0", "Content-Length: -1", "Content-Length: ", "Content-Length: 5 5", "Content-Length: 0x5",
        "Content-Length: 1000000000000000000", "Content-Length: 18446744073709551617", "Content-Length: \u{0661}",
        "Transfer-Encoding: gzip", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:", "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ])
    func `case 32: a length that two readers could understand differently is refused`(_ fields: String) {
        #expect(framing(fields) == nil)
    }

    @Test func `chunks are none of HTTP 1.0`() {
        #expect(framing("Transfer-Encoding: chunked", version: 0) == nil)
        #expect(framing("Content-Length: 5", version: 0) == .length(5))
    }

    @Test func `seeded noise never traps, and never makes more of a body than there is`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("request bodies: seed \(seed)")
        var random = SplitMix64(seed: seed)
        let good = Array("5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n".utf8)
        for _ in 0..<5000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let index = Int.random(in: 0..<bytes.count, using: &random)
                bytes[index] =
                    Bool.random(using: &random)
                    ? UInt8.random(in: 0...127, using: &random) : good.randomElement(using: &random) ?? 0
            }
            let text = String(decoding: bytes, as: UTF8.self)
            let whole = decode(text)
            #expect(whole == decode(text, pieces: 1), "seed \(seed)")
            if case .body(let body, let used) = whole { #expect(body.utf8.count < used && used <= text.utf8.count) }
        }
    }
}
