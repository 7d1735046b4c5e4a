import Testing

@testable import Relay

@Suite struct `Frame codec` {
    /// Decodes all of `bytes` and writes the steps down, pieces of one payload put together.
    private func decode(
        _ bytes: [UInt8], _ cut: Cut = .whole, role: FrameDecoder.Role
    ) -> (frames: [(FrameHeader, [UInt8])], violation: CloseCode?) {
        var decoder = FrameDecoder(role: role)
        var frames: [(FrameHeader, [UInt8])] = []
        var violation: CloseCode?
        for var piece in cut.pieces(of: bytes) {
            piece.withUnsafeMutableBytes { buffer in
                var offset = 0
                while true {
                    switch decoder.next(buffer, &offset) {
                    case .needsInput: return
                    case .header(let header): frames.append((header, []))
                    case .payload(let range, let endsFrame):
                        frames[frames.count - 1].1 += buffer[range]
                        let isWhole = frames[frames.count - 1].1.count == frames[frames.count - 1].0.payloadLength
                        #expect(endsFrame == isWhole)
                    case .violation(let found):
                        #expect(violation == nil)
                        violation = found.code
                    }
                }
            }
        }
        return (frames, violation)
    }

    /// RFC 6455 §5.7: head and payload of each example.
    private static let examples:
        [(wire: [UInt8], role: FrameDecoder.Role, opcode: Opcode, final: Bool, payload: [UInt8])] = [
            ([0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F], .client, .text, true, Array("Hello".utf8)),
            (
                [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58], .server, .text, true,
                Array("Hello".utf8)
            ),
            ([0x01, 0x03, 0x48, 0x65, 0x6C], .client, .text, false, Array("Hel".utf8)),
            ([0x80, 0x02, 0x6C, 0x6F], .client, .continuation, true, Array("lo".utf8)),
            ([0x89, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F], .client, .ping, true, Array("Hello".utf8)),
            (
                [0x8A, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58], .server, .pong, true,
                Array("Hello".utf8)
            ),
            (
                [0x82, 0x7E, 0x01, 0x00] + [UInt8](repeating: 7, count: 256), .client, .binary, true,
                [UInt8](repeating: 7, count: 256)
            ),
            (
                [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0] + [UInt8](repeating: 9, count: 65536), .client, .binary, true,
                [UInt8](repeating: 9, count: 65536)
            ),
        ]

    @Test(arguments: 0..<8) func `the examples of RFC 6455 section 5.7 decode`(_ index: Int) throws {
        let example = Self.examples[index]
        let splits = (0...min(example.wire.count, 300)).map { Cut.at($0) }
        for cut in [Cut.whole, .everyByte] + splits {
            let (frames, violation) = decode(example.wire, cut, role: example.role)
            #expect(violation == nil)
            try #require(frames.count == 1)
            #expect(frames[0].0.opcode == example.opcode)
            #expect(frames[0].0.isFinal == example.final)
            #expect(frames[0].0.isMasked == (example.role == .server))
            #expect(frames[0].1 == example.payload)
        }
    }

    @Test(arguments: 0..<8) func `the examples of RFC 6455 section 5.7 are what the encoder writes`(_ index: Int) {
        let example = Self.examples[index]
        let key: UInt32? = example.role == .server ? UInt32(littleEndian: 0x3D21_FA37) : nil
        #expect(encode(example.opcode, example.final, example.payload, key: key) == example.wire)
    }

    private func encode(_ opcode: Opcode, _ isFinal: Bool, _ payload: [UInt8], key: UInt32?) -> [UInt8] {
        var head = [UInt8](repeating: 0xEE, count: FrameHeader.maximumLength)
        let length = head.withUnsafeMutableBytes {
            // The array has 14 bytes, so its buffer has an address.
            FrameEncoder.writeHeader(
                isFinal: isFinal, opcode: opcode, payloadLength: payload.count, maskingKey: key, into: $0.baseAddress!)
        }
        #expect(length == FrameEncoder.headerLength(payloadLength: payload.count, isMasked: key != nil))
        #expect(head[length...].allSatisfy { $0 == 0xEE })
        var masked = payload
        if let key { masked.withUnsafeMutableBytes { Masking.apply(key, to: $0) } }
        return Array(head[..<length]) + masked
    }

    @Test func `what is encoded decodes again, for every length around a change of form`() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("frame round trips: seed \(seed)")
        var random = SplitMix64(seed: seed)
        let lengths = [
            0, 1, 2, 3, 4, 7, 8, 63, 64, 65, 124, 125, 126, 127, 128, 1000, 65534, 65535, 65536, 65537, 200_000,
        ]
        for role in [FrameDecoder.Role.server, .client] {
            var stream: [UInt8] = []
            var sent: [(Opcode, Bool, [UInt8])] = []
            for length in lengths {
                let opcode: Opcode = length <= 125 ? [.ping, .text, .binary].randomElement(using: &random)! : .binary
                let isFinal = opcode.isControl || Bool.random(using: &random)
                let payload = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
                let key = role == .server ? UInt32.random(in: 0...UInt32.max, using: &random) : nil
                stream += encode(opcode, isFinal, payload, key: key)
                sent.append((opcode, isFinal, payload))
            }
            let sizes = (0..<2000).map { _ in Int.random(in: 1...700, using: &random) }
            for cut in [Cut.whole, .everyByte, .sizes(sizes)] {
                let (frames, violation) = decode(stream, cut, role: role)
                #expect(violation == nil, "seed \(seed)")
                try #require(frames.count == sent.count, "seed \(seed)")
                for (frame, sent) in zip(frames, sent) {
                    #expect(frame.0.opcode == sent.0 && frame.0.isFinal == sent.1, "seed \(seed)")
                    #expect(frame.1 == sent.2, "seed \(seed)")
                }
            }
        }
    }

    @Test func `a head is decoded whatever way it falls over two buffers`() {
        let frames = [
            WireFrame.text("ab").bytes, WireFrame.binary([UInt8](repeating: 3, count: 126)).bytes,
            WireFrame.binary([UInt8](repeating: 4, count: 70_000)).bytes, WireFrame.ping([]).bytes,
        ]
        let stream = frames.flatMap { $0 }
        for index in 0...160 {
            let (found, violation) = decode(stream, .at(index), role: .server)
            #expect(violation == nil)
            #expect(found.map { $0.1.count } == [2, 126, 70_000, 0])
        }
    }

    @Test func `masking is its own inverse at every phase, length and alignment`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("masking: seed \(seed)")
        var random = SplitMix64(seed: seed)
        let keyBytes: [UInt8] = [0x12, 0x80, 0xFF, 0x03]
        let key = keyBytes.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
        let source = (0..<300).map { _ in UInt8.random(in: 0...255, using: &random) }
        for length in 0...200 {
            for phase in 0..<8 {
                let start = Int.random(in: 0..<64, using: &random)
                let expected = (0..<length).map { source[start + $0] ^ keyBytes[($0 + phase) % 4] }
                var copy = [UInt8](repeating: 0, count: length)
                source.withUnsafeBytes { source in
                    copy.withUnsafeMutableBytes {
                        Masking.copy(
                            UnsafeRawBufferPointer(rebasing: source[start..<start + length]), to: $0, key: key,
                            phase: phase)
                    }
                }
                #expect(copy == expected, "seed \(seed)")
                var whole = source
                whole.withUnsafeMutableBytes {
                    Masking.apply(
                        key, phase: phase, to: UnsafeMutableRawBufferPointer(rebasing: $0[start..<start + length]))
                }
                #expect(Array(whole[start..<start + length]) == expected, "seed \(seed)")
                #expect(Array(whole[..<start]) == Array(source[..<start]), "seed \(seed)")
                #expect(Array(whole[(start + length)...]) == Array(source[(start + length)...]), "seed \(seed)")
            }
        }
    }

    @Test func `case 42: an unmasked frame from a client is a violation, and a masked one from a server`() {
        var frame = WireFrame.text("x")
        #expect(decode(frame.bytes, role: .client).violation == .protocolError)
        frame.key = nil
        #expect(decode(frame.bytes, role: .server).violation == .protocolError)
    }

    @Test func `case 43: a 64-bit length with its top bit set is refused at its tenth byte`() {
        let head: [UInt8] = [0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]
        for cut in [Cut.whole, .everyByte] {
            #expect(decode(head, cut, role: .server).violation == .protocolError)
            #expect(decode(Array(head.dropLast()), cut, role: .server).violation == nil)
        }
    }

    @Test func `case 43: a length of 2^63-1 neither traps nor takes memory`() {
        let head: [UInt8] = [0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4, 5, 6]
        let (frames, violation) = decode(head, role: .server)
        #expect(violation == nil)
        #expect(frames.first?.0.payloadLength == .max)
        #expect(frames.first?.1.count == 2)
    }

    @Test(
        arguments: [
            [0x82, 0xFE, 0, 0], [0x82, 0xFE, 0, 125], [0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
            [0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1],
        ] as [[UInt8]])
    func `case 44: a length that is not in its shortest form is refused`(_ head: [UInt8]) {
        for cut in [Cut.whole, .everyByte] { #expect(decode(head, cut, role: .server).violation == .protocolError) }
    }

    @Test func `case 45: every reserved bit and opcode is refused at the first byte`() {
        for first in UInt8.min...UInt8.max {
            let isFine =
                [0, 1, 2, 8, 9, 10].contains(first & 0x0F) && first & 0x70 == 0 && (first >= 0x80 || first & 8 == 0)
            #expect((decode([first], role: .server).violation == nil) == isFine)
        }
    }

    @Test func `case 45: a control frame of more than 125 bytes is refused at its second byte`() {
        for opcode: UInt8 in [8, 9, 10] {
            #expect(decode([0x80 | opcode, 0x80 | 126], role: .server).violation == .protocolError)
            #expect(decode([0x80 | opcode, 0x80 | 127], .everyByte, role: .server).violation == .protocolError)
            #expect(decode([0x80 | opcode, 0x80 | 125], role: .server).violation == nil)
        }
    }

    @Test func `case 57: a masking key of zero leaves the payload as it is`() {
        var frame = WireFrame.binary(Array(0...255))
        frame.key = [0, 0, 0, 0]
        for cut in [Cut.whole, .everyByte] {
            #expect(decode(frame.bytes, cut, role: .server).frames.first?.1 == Array(0...255))
        }
    }

    @Test func `a close payload is cut between characters, to 125 bytes`() {
        #expect(FrameEncoder.closePayload(.normal) == [0x03, 0xE8])
        #expect(FrameEncoder.closePayload(.noStatus, reason: "x") == [])
        #expect(FrameEncoder.closePayload(.kicked, reason: "ab") == [0x0F, 0xA7, 0x61, 0x62])
        let long = FrameEncoder.closePayload(.normal, reason: String(repeating: "é", count: 80))
        #expect(long.count == 124)
        #expect(String(decoding: long[2...], as: UTF8.self) == String(repeating: "é", count: 61))
    }
}

@Suite struct `Close codes` {
    @Test func `case 47: only the codes that RFC 6455 section 7.4.2 allows may come over the wire`() {
        let valid = (0...65535).filter { CloseCode(UInt16($0)).isValidOnWire }
        #expect(valid == Array(1000...1003) + Array(1007...1014) + Array(3000...4999))
    }

    @Test func `every code of the registry has one entry with a name and an explanation`() {
        #expect(CloseCode.all.count == Set(CloseCode.all).count)
        #expect(CloseCode.all.map(\.rawValue) == CloseCode.all.map(\.rawValue).sorted())
        for code in CloseCode.all { #expect(!code.name.isEmpty && code.explanation.hasSuffix(".")) }
        #expect(Set((4001...4008).map { CloseCode($0) }).isSubset(of: CloseCode.all))
    }

    @Test func `clients come back after a restart and stay away after a refusal`() {
        #expect(CloseCode.serviceRestart.shouldReconnect && CloseCode.slowConsumer.shouldReconnect)
        #expect(!CloseCode.unauthorized.shouldReconnect && !CloseCode.replaced.shouldReconnect)
        #expect(CloseCode(4999).shouldReconnect)
        #expect(CloseCode(4999).name == "private" && CloseCode(1012).description == "1012 (service restart)")
    }
}
