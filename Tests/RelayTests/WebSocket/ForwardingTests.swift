import Testing

@testable import Relay

/// What forwarding made of a stream.
private struct Outcome: Equatable {
    /// The bytes that went on.
    var output: [UInt8] = []
    /// What it told, each with the number of bytes that had gone on by then.
    var told: [String] = []
    var frameEnds = 0
}

/// Forwards `bytes`, received as `cut` says, into rooms of `roomBytes`. Goes on behind an end, which must be silent.
private func forward(
    _ bytes: [UInt8], _ cut: Cut = .whole, role: FrameDecoder.Role = .server, roomBytes: Int = 1 << 16,
    messages allowed: Int = .max, stopsAtFrameEnd: Bool = false
) -> Outcome {
    var reader = WebSocketReader(role: role, maximumMessageBytes: 16)
    var outcome = Outcome()
    var messages = allowed
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: roomBytes, alignment: 1)
    defer { room.deallocate() }
    for var piece in cut.pieces(of: bytes) {
        piece.withUnsafeMutableBytes { buffer in
            var offset = 0
            var needsMore = false
            while !needsMore {
                var written = 0
                let step = reader.forward(
                    buffer, &offset, into: room, &written, messages: &messages, stopsAtFrameEnd: stopsAtFrameEnd)
                outcome.output += room[..<written]
                let at = outcome.output.count
                switch step {
                case .needsInput:
                    needsMore = true
                    precondition(offset == buffer.count, "needsInput before everything was consumed")
                case .needsRoom: precondition(written > 0, "no room in an empty room")
                case .frameEnd:
                    outcome.frameEnds += 1
                    precondition(!reader.isInsideDataFrame, "inside a frame that has ended")
                case .tooManyMessages: outcome.told.append("too many \(at)")
                case .event(.ping(let payload)): outcome.told.append("ping \(Array(payload)) \(at)")
                case .event(.pong(let payload)): outcome.told.append("pong \(Array(payload)) \(at)")
                case .event(.close(let code, let reason)):
                    outcome.told.append("close \(code?.rawValue ?? 0) \(String(decoding: reason, as: UTF8.self)) \(at)")
                case .event(.violation(let violation)):
                    outcome.told.append("violation \(violation.code.rawValue) \(at)")
                case .event(.data), .event(.needsInput): outcome.told.append("nothing of the kind")
                }
            }
        }
    }
    return outcome
}

/// The frames as they go on: data only, unmasked, otherwise the same.
private func expected(_ frames: [WireFrame]) -> [UInt8] {
    frames.filter { $0.opcode < 8 }.flatMap { frame in
        var frame = frame
        frame.key = nil
        return frame.bytes
    }
}

private func bytes(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var random = SplitMix64(seed: seed)
    return (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
}

@Suite struct `Forwarding` {
    private static let mixed: [WireFrame] = [
        .text("hello"), .binary([]), .binary(bytes(1)), .ping([1, 2, 3]), .text("a", isFinal: false), .more([]),
        .pong([]), .more(bytes(125)), .ping([]), .more(bytes(126), isFinal: true), .binary(bytes(300), isFinal: false),
        .more([], isFinal: true), .ping(bytes(125)), WireFrame(opcode: 1, payload: [0xFF, 0xC0]), .text("€"),
        .close(4000, Array("bye".utf8)),
    ]

    @Test func `data goes on unmasked and in its frames, control frames are told in their place`() {
        let outcome = forward(Self.mixed.flatMap(\.bytes))
        #expect(outcome.output == expected(Self.mixed))
        let until = { (index: Int) in expected(Array(Self.mixed[..<index])).count }
        #expect(
            outcome.told == [
                "ping [1, 2, 3] \(until(3))", "pong [] \(until(6))", "ping [] \(until(8))",
                "ping \(bytes(125)) \(until(12))", "close 4000 bye \(until(15))",
            ])
    }

    @Test func `wherever a stream is cut, and whatever room there is, the same comes out`() {
        let stream = Self.mixed.flatMap(\.bytes)
        let whole = forward(stream)
        for index in 0...stream.count { #expect(forward(stream, .at(index)) == whole, "cut at \(index)") }
        #expect(forward(stream, .everyByte) == whole)
        for room in Array(WebSocketReader.leastRoom...20) + [127, 128, 200] {
            #expect(forward(stream, roomBytes: room) == whole, "a room of \(room)")
            #expect(forward(stream, .everyByte, roomBytes: room) == whole, "a room of \(room)")
        }
        for seed: UInt64 in 1...50 {
            var random = SplitMix64(seed: seed)
            let sizes = (0..<200).map { _ in Int.random(in: 1...90, using: &random) }
            let room = Int.random(in: WebSocketReader.leastRoom...300, using: &random)
            #expect(forward(stream, .sizes(sizes), roomBytes: room) == whole, "seed \(seed)")
        }
    }

    @Test(arguments: [0, 1, 2, 63, 64, 65, 125, 126, 127, 1000, 65535, 65536, 65537, 2 << 20])
    func `a payload of any length goes on, under any key`(count: Int) {
        let payload = bytes(count)
        for key: [UInt8] in count > 65537 ? [[1, 2, 3, 4]] : [[0, 0, 0, 0], [1, 2, 3, 4], [0xFF, 0, 0xFF, 0x80]] {
            let frames = [WireFrame(opcode: 2, key: key, payload: payload), .text("behind")]
            let stream = frames.flatMap(\.bytes)
            let told = expected(frames)
            // Compared first: a difference of megabytes is not worth printing.
            for cut in [Cut.whole, .sizes([7, 1000, 3]), .sizes(Array(repeating: 4099, count: 600))] {
                let isSame = forward(stream, cut, roomBytes: 4096).output == told
                #expect(isSame, "\(count) bytes under \(key)")
            }
        }
    }

    @Test func `a client's end reads frames without masks`() {
        let frames = [WireFrame(opcode: 1, key: nil, payload: bytes(9)), WireFrame(opcode: 2, key: nil, payload: [])]
        #expect(forward(frames.flatMap(\.bytes), role: .client).output == expected(frames))
        #expect(forward(WireFrame.text("masked").bytes, role: .client).told == ["violation 1002 0"])
    }

    @Test func `a head goes on before its payload has come`() {
        let long = WireFrame.binary(bytes(70_000)).bytes
        #expect(forward(Array(long[..<13])).output == [])
        #expect(forward(Array(long[..<14])).output == [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70])
        #expect(forward(Array(long[..<20]), .everyByte).output.count == 16)
    }

    @Test func `what breaks the framing ends the stream, behind what was right`() {
        let good = WireFrame.text("good")
        let before = expected([good]).count
        let broken: [[WireFrame]] = [
            [.more([1], isFinal: true)], [WireFrame(opcode: 2, reserved: 4, payload: [])],
            [WireFrame(opcode: 1, reserved: 1, payload: [1])], [WireFrame(opcode: 3, payload: [])],
            [WireFrame(opcode: 2, key: nil, payload: [1])], [WireFrame(isFinal: false, opcode: 9, payload: [])],
            [.ping(bytes(126))], [.close([3])], [.close(1005)],
        ]
        for frames in broken {
            let stream = ([good] + frames + [good]).flatMap(\.bytes)
            for cut in [Cut.whole, .everyByte] {
                let outcome = forward(stream, cut)
                #expect(outcome.told == ["violation 1002 \(before)"], "\(frames)")
                #expect(outcome.output == expected([good]))
            }
        }
        let inside = [WireFrame.text("a", isFinal: false), .text("b")]
        #expect(forward(inside.flatMap(\.bytes)).told == ["violation 1002 3"])
        #expect(forward(inside.flatMap(\.bytes), .everyByte).output == expected([inside[0]]))
        // A length that is not in its shortest form: 5 in two bytes.
        #expect(forward([0x82, 0x80 | 126, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5]).told == ["violation 1002 0"])
        #expect(forward(WireFrame.close(1000, [0xFF]).bytes).told == ["violation 1007 0"])
    }

    @Test func `behind a close frame all is silent`() {
        let frames: [WireFrame] = [.close([]), .text("late"), .ping([])]
        for cut in [Cut.whole, .everyByte] {
            #expect(forward(frames.flatMap(\.bytes), cut) == Outcome(told: ["close 0  0"]))
        }
    }

    @Test func `messages are counted, not frames, and the first that is too many does not go on`() {
        let frames: [WireFrame] = [
            .text("1"), .binary([2], isFinal: false), .more([2]), .ping([]), .more([2], isFinal: true),
            .binary(bytes(200)),
        ]
        let outcome = Outcome(output: expected(frames), told: ["ping [] \(expected(Array(frames[..<3])).count)"])
        let stream = frames.flatMap(\.bytes)
        for cut in [Cut.whole, .everyByte] {
            #expect(forward(stream, cut, messages: 3) == outcome)
            for more in [WireFrame.text("4"), .text(String(repeating: "4", count: 500))] {
                let told = forward(stream + more.bytes, cut, messages: 3).told
                #expect(told == outcome.told + ["too many \(outcome.output.count)"])
            }
        }
    }

    @Test func `who has something to say between frames is told where each ends`() {
        let stream = Self.mixed.flatMap(\.bytes)
        for cut in [Cut.whole, .everyByte] {
            let outcome = forward(stream, cut, stopsAtFrameEnd: true)
            #expect(outcome.output == expected(Self.mixed))
            #expect(outcome.frameEnds == 11)
        }
    }

    @Test func `random streams survive random cuts`() {
        for seed: UInt64 in 1...30 {
            var random = SplitMix64(seed: seed)
            var frames: [WireFrame] = []
            while frames.count < 30 {
                let pieces = Int.random(in: 1...4, using: &random)
                for piece in 0..<pieces {
                    let count = [0, 1, 5, 64, 125, 126, 400, 5000].randomElement(using: &random)!
                    let key = (0..<4).map { _ in UInt8.random(in: 0...255, using: &random) }
                    let opcode: UInt8 = piece > 0 ? 0 : Bool.random(using: &random) ? 1 : 2
                    let payload = bytes(count, seed: seed &+ UInt64(frames.count))
                    frames.append(
                        WireFrame(isFinal: piece == pieces - 1, opcode: opcode, key: key, payload: payload))
                    if Bool.random(using: &random) {
                        frames.append(.ping(bytes(Int.random(in: 0...125, using: &random))))
                    }
                }
            }
            let stream = frames.flatMap(\.bytes)
            let sizes = (0..<2000).map { _ in Int.random(in: 1...3000, using: &random) }
            let outcome = forward(stream, .sizes(sizes), roomBytes: Int.random(in: 10...9000, using: &random))
            let isSame = outcome.output == expected(frames)
            #expect(isSame, "seed \(seed)")
            #expect(outcome.told.count == frames.filter { $0.opcode == 9 }.count, "seed \(seed)")
        }
    }

    @Test func `forwarding takes over from reading inside a control frame and inside a head`() {
        let read = WireFrame.text("for the app").bytes
        let ping = WireFrame.ping([7]).bytes
        let forwarded = WireFrame.binary(bytes(200))
        let stream = read + ping + forwarded.bytes
        for cut in read.count..<(read.count + ping.count + 8) {
            var reader = WebSocketReader(role: .server)
            var pieces = Cut.at(cut).pieces(of: stream)
            var messages = 1
            pieces[0].withUnsafeMutableBytes { buffer in
                var offset = 0
                while offset < buffer.count { _ = reader.next(buffer, &offset) }
            }
            let isInsideMessage = reader.isInsideMessage
            #expect(!isInsideMessage)
            let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 1000, alignment: 1)
            defer { room.deallocate() }
            var written = 0
            pieces[1].withUnsafeMutableBytes { buffer in
                var offset = 0
                while case .event(.ping) = reader.forward(
                    buffer, &offset, into: room, &written, messages: &messages, stopsAtFrameEnd: false)
                {}
            }
            #expect(Array(room[..<written]) == expected([forwarded]), "cut at \(cut)")
        }
    }
}
