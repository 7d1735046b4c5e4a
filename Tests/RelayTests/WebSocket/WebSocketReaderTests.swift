import Testing

@testable import Relay

@Suite struct `WebSocket reader` {
    /// Reads `frames` whole, byte by byte and cut in two at every place (of the first 400), and expects the same story.
    private func expect(
        _ frames: [WireFrame], limit: Int = 0, _ expected: [Told], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let bytes = frames.flatMap(\.bytes)
        #expect(read(bytes, limit: limit) == expected, sourceLocation: sourceLocation)
        #expect(read(bytes, .everyByte, limit: limit) == expected, "byte by byte", sourceLocation: sourceLocation)
        for index in 0...min(bytes.count, 400) {
            #expect(
                read(bytes, .at(index), limit: limit) == expected, "cut at \(index)", sourceLocation: sourceLocation)
        }
    }

    @Test func `it is small, since every idle connection has one`() {
        #expect(MemoryLayout<WebSocketReader>.size <= 96)
        print("WebSocketReader: \(MemoryLayout<WebSocketReader>.size) bytes")
    }

    @Test func `messages come out whole, in pieces, fragmented and empty`() {
        expect([.text("hello"), .binary([0, 255]), .text("")], [.text("hello"), .binary([0, 255]), .text("")])
        expect([.text("hel", isFinal: false), .more([0x6C]), .more([0x6F], isFinal: true)], [.text("hello")])
        expect([.binary([], isFinal: false), .more([]), .more([1]), .more([], isFinal: true)], [.binary([1])])
        expect([.text("", isFinal: false), .more([], isFinal: true)], [.text("")])
    }

    @Test func `case 57: control frames between fragments are told at once`() {
        expect(
            [
                .text("a", isFinal: false), .ping([1, 2]), .more([0x62]), .pong([]), .more([], isFinal: true),
                .ping([]),
            ],
            [.ping([1, 2]), .pong([]), .text("ab"), .ping([])])
    }

    @Test func `a control frame of 125 bytes survives any split`() {
        let payload = (0..<125).map { UInt8($0) }
        expect(
            [.ping(payload), .pong(payload), .close(1000, Array(payload.prefix(123)))],
            [
                .ping(payload), .pong(payload), .close(1000, Array(payload.prefix(123))),
            ])
    }

    @Test func `pieces are handed out as they arrive, first and last marked`() {
        var reader = WebSocketReader(role: .server)
        let bytes = WireFrame.text("hello").bytes
        var told: [String] = []
        for var piece in Cut.sizes([8, 1]).pieces(of: bytes) {
            piece.withUnsafeMutableBytes { buffer in
                var offset = 0
                while case .data(let isText, let range, let isFirst, let isLast) = reader.next(buffer, &offset) {
                    told.append("\(String(decoding: buffer[range], as: UTF8.self)) \(isText) \(isFirst) \(isLast)")
                }
            }
        }
        #expect(told == ["he true true false", "l true false false", "lo true false true"])
        let isInsideMessage = reader.isInsideMessage
        #expect(!isInsideMessage)
    }

    @Test func `case 45: a continuation without a message and a message within one are violations`() {
        expect([.more([1], isFinal: true)], [.violation(1002)])
        expect([.text("a", isFinal: false), .text("b")], [.violation(1002)])
        expect([.binary([1], isFinal: false), .binary([2], isFinal: false)], [.violation(1002)])
        expect([.text("a"), .more([1], isFinal: true)], [.text("a"), .violation(1002)])
    }

    @Test func `case 45: reserved bits on any kind of frame are violations`() {
        for opcode: UInt8 in [0, 1, 2, 8, 9, 10] {
            for reserved: UInt8 in 1...7 {
                expect([WireFrame(opcode: opcode, reserved: reserved, payload: [])], [.violation(1002)])
            }
        }
    }

    @Test(
        arguments: [
            [0xC0, 0xAF], [0xE0, 0x80, 0xAF], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF0, 0x80, 0x80, 0xAF],
            [0x80], [0xFF], [0x61, 0xC3], [0xE2, 0x82], [0xF0, 0x9F, 0x98],
        ] as [[UInt8]])
    func `case 46: a text message that is not UTF-8 is refused`(_ bad: [UInt8]) {
        expect([WireFrame(opcode: 1, payload: bad)], [.violation(1007)])
        expect([WireFrame(isFinal: false, opcode: 1, payload: bad), .more([0x61], isFinal: true)], [.violation(1007)])
        expect([.close(1000, bad)], [.violation(1007)])
        expect([.binary(bad)], [.binary(bad)])
    }

    @Test func `case 46: a character may lie across fragments, with a ping between`() {
        let euro = Array("€".utf8)
        expect(
            [
                WireFrame(isFinal: false, opcode: 1, payload: [euro[0]]), .ping([]), .more([euro[1]]),
                .more([euro[2]], isFinal: true),
            ],
            [.ping([]), .text(euro)])
    }

    @Test func `case 46: text is refused at its first wrong byte, not at its end`() {
        let frame = WireFrame(isFinal: false, opcode: 1, payload: Array("ok".utf8) + [0xC3, 0x28] + Array("rest".utf8))
            .bytes
        // 6 bytes of head and 4 of payload are enough to know.
        #expect(read(Array(frame[..<9]), .everyByte) == [])
        #expect(read(Array(frame[..<10]), .everyByte) == [.violation(1007)])
    }

    @Test func `case 47: half a code and codes that may not be sent are refused`() {
        expect([.close([3])], [.violation(1002)])
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            expect([.close(code)], [.violation(1002)])
        }
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999] {
            expect([.close(code, [0x6F, 0x6B])], [.close(UInt16(code), [0x6F, 0x6B])])
        }
        expect([.close([])], [.close(nil, [])])
    }

    @Test func `case 48: whatever follows a close frame or a violation is ignored`() {
        let storm = (0..<1000).map { _ in WireFrame.close(1000) }
        #expect(read(([.close(1001)] + storm).flatMap(\.bytes)) == [.close(1001, [])])
        expect([.close(1000), .text("late"), .more([1])], [.close(1000, [])])
        expect([.more([1]), .text("late"), .close(1000)], [.violation(1002)])
        expect([.text("open", isFinal: false), .close(1000)], [.close(1000, [])])
    }

    @Test func `case 32: a second HTTP request where frames are expected is never read as one`() {
        #expect(read(Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8)) == [.violation(1002)])
    }

    @Test func `case 49: empty fragments run into the limit`() {
        let empty = WireFrame.more([]).bytes
        let bytes = WireFrame.binary([], isFinal: false).bytes + (0..<70_000).flatMap { _ in empty }
        #expect(read(bytes, limit: 1 << 20) == [.violation(1009)])
        #expect(read(bytes, limit: 16 << 20) == [])
        #expect(read(bytes, limit: 0) == [])
    }

    @Test func `case 49: 4 MiB in 65 536 fragments pass under 16 MiB, as Autobahn sends them`() {
        let part = [UInt8](repeating: 0x2A, count: 64)
        var bytes = WireFrame.binary(part, isFinal: false).bytes
        let more = WireFrame.more(part).bytes
        for _ in 0..<65_534 { bytes += more }
        bytes += WireFrame.more(part, isFinal: true).bytes
        #expect(read(bytes, limit: 16 << 20) == [.binary([UInt8](repeating: 0x2A, count: 4 << 20))])
    }

    @Test func `case 56: a message at its limit passes, one byte more does not, however it is cut`() {
        expect(
            [.binary([1, 2, 3, 4]), .binary([5, 6, 7, 8])], limit: 4, [.binary([1, 2, 3, 4]), .binary([5, 6, 7, 8])])
        expect([.binary([1, 2, 3, 4, 5])], limit: 4, [.violation(1009)])
        expect(
            [.binary([1, 2], isFinal: false), .ping([9]), .more([3, 4], isFinal: true)], limit: 4,
            [
                .ping([9]), .binary([1, 2, 3, 4]),
            ])
    }

    @Test func `case 56: a fragment that leads beyond the limit is refused at its head`() {
        let first = WireFrame.binary([1, 2, 3], isFinal: false).bytes
        let second = WireFrame.more([4, 5], isFinal: true).bytes
        // Two bytes of the second head announce its length.
        #expect(read(first + second[..<1], .everyByte, limit: 4) == [])
        #expect(read(first + second[..<2], .everyByte, limit: 4) == [.violation(1009)])
    }

    @Test func `case 43: 2 GB announced in ten bytes are refused at once`() {
        let head: [UInt8] = [0x82, 0xFF, 0, 0, 0, 0, 0x80, 0, 0, 0]
        #expect(read(head, limit: 1 << 20) == [.violation(1009)])
        #expect(read(head, .everyByte, limit: 1 << 20) == [.violation(1009)])
        #expect(read(head, limit: 0) == [])
    }

    @Test func `lengths that overflow together are too big, not a trap`() {
        let huge: [UInt8] = [0x02, 0xFE, 0, 200] + [0, 0, 0, 0] + [UInt8](repeating: 1, count: 200)
        let rest: [UInt8] = [0x80, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]
        #expect(read(huge + rest, limit: .max) == [.violation(1009)])
        #expect(read(huge + rest, limit: 0) == [])
    }

    @Test func `the limit can change between frames`() {
        var reader = WebSocketReader(role: .server, maximumMessageBytes: 2)
        func feed(_ frame: WireFrame) -> String {
            var bytes = frame.bytes
            return bytes.withUnsafeMutableBytes { buffer in
                var offset = 0
                switch reader.next(buffer, &offset) {
                case .data(_, let range, _, _): return "\(range.count)"
                case .violation(let violation): return violation.code.description
                default: return "?"
                }
            }
        }
        #expect(feed(.text("ab")) == "2")
        reader.maximumMessageBytes = 3
        #expect(feed(.text("abc")) == "3")
        reader.maximumMessageBytes = 1
        #expect(feed(.text("ab")) == "1009 (message too big)")
    }

    @Test func `case 57: 100 000 empty frames are 100 000 messages`() {
        let one = WireFrame.text("").bytes
        let bytes = (0..<100_000).flatMap { _ in one }
        #expect(read(bytes, limit: 1024).count == 100_000)
    }

    @Test func `seeded conversations read the same whatever way they are cut`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("conversations: seed \(seed)")
        var random = SplitMix64(seed: seed)
        for _ in 0..<200 {
            let (bytes, expected) = conversation(&random)
            let sizes = (0..<400).map { _ in Int.random(in: 1...40, using: &random) }
            #expect(read(bytes) == expected, "seed \(seed)")
            #expect(read(bytes, .everyByte) == expected, "seed \(seed)")
            #expect(read(bytes, .sizes(sizes)) == expected, "seed \(seed)")
        }
    }

    private func conversation(_ random: inout SplitMix64) -> ([UInt8], [Told]) {
        let scalars: [Unicode.Scalar] = ["a", "é", "€", "𝄞", "\u{7FF}", "\u{FFFF}", "\u{10FFFF}", "\0"]
        var bytes: [UInt8] = []
        var told: [Told] = []
        for _ in 0..<Int.random(in: 1...5, using: &random) {
            var text = String.UnicodeScalarView()
            for _ in 0..<Int.random(in: 0...60, using: &random) { text.append(scalars.randomElement(using: &random)!) }
            let payload = Array(String(text).utf8)
            let isText = Bool.random(using: &random)
            let cuts = (0..<Int.random(in: 0...3, using: &random)).map { _ in
                Int.random(in: 0...payload.count, using: &random)
            }
            let bounds = [0] + cuts.sorted() + [payload.count]
            for (index, (from, to)) in zip(bounds, bounds.dropFirst()).enumerated() {
                let isFinal = index == bounds.count - 2
                var frame = WireFrame(
                    isFinal: isFinal, opcode: index > 0 ? 0 : isText ? 1 : 2, payload: Array(payload[from..<to]))
                frame.key = (0..<4).map { _ in UInt8.random(in: 0...255, using: &random) }
                bytes += frame.bytes
                if isFinal { told.append(isText ? .text(payload) : .binary(payload)) }
                if Bool.random(using: &random) {
                    let payload = (0..<Int.random(in: 0...125, using: &random)).map { UInt8($0) }
                    bytes += WireFrame.ping(payload).bytes
                    told.append(.ping(payload))
                }
            }
        }
        return (bytes, told)
    }

    @Test func `seeded noise ends in one violation or in silence, never in a trap`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("noise: seed \(seed)")
        var random = SplitMix64(seed: seed)
        for _ in 0..<2000 {
            var (bytes, _) = conversation(&random)
            for _ in 0..<3 {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            let whole = read(bytes, limit: 1000)
            let ends = whole.filter {
                if case .violation = $0 { true } else if case .close = $0 { true } else { false }
            }
            #expect(ends.count <= 1, "seed \(seed)")
            if let end = ends.first { #expect(whole.last == end, "seed \(seed)") }
            #expect(read(bytes, .everyByte, limit: 1000) == whole, "seed \(seed)")
        }
    }
}

@Suite struct `UTF-8 validator` {
    /// The standard library's decoder as the model: what it repairs is invalid.
    private func isValid(_ bytes: [UInt8]) -> Bool { String(validating: bytes, as: UTF8.self) != nil }

    @Test func `every sequence of up to three bytes is judged as the standard library does`() {
        let interesting: [UInt8] = [
            0, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE,
            0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
        ]
        for a in interesting {
            for b in interesting {
                for c in interesting {
                    for sequence in [[a], [a, b], [a, b, c], [a, b, c, 0x80], [a, b, c, 0xBF], [a, b, c, 0x41]] {
                        let judged = sequence.withUnsafeBytes { UTF8Validator.isValid($0) }
                        if judged != isValid(sequence) { Issue.record("\(sequence) is judged \(judged)") }
                    }
                }
            }
        }
    }

    @Test func `a wrong byte is found wherever it lies among ASCII`() {
        for length in 1...100 {
            for position in 0..<length {
                var bytes = [UInt8](repeating: 0x61, count: length)
                bytes[position] = 0x80
                if bytes.withUnsafeBytes({ UTF8Validator.isValid($0) }) { Issue.record("\(position) of \(length)") }
            }
        }
    }

    @Test func `pieces of any size are judged as the whole is`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("UTF-8: seed \(seed)")
        var random = SplitMix64(seed: seed)
        for _ in 0..<3000 {
            var bytes = Array(String("aé€𝄞zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz¢日本".shuffled(using: &random)).utf8)
            if Bool.random(using: &random) { bytes[Int.random(in: 0..<bytes.count, using: &random)] ^= 0xC0 }
            var validator = UTF8Validator()
            var accepted = true
            for piece in Cut.sizes((0..<30).map { _ in Int.random(in: 1...9, using: &random) }).pieces(of: bytes) {
                accepted = accepted && piece.withUnsafeBytes { validator.accept($0) }
            }
            #expect((accepted && validator.isComplete) == isValid(bytes), "seed \(seed)")
        }
    }
}
