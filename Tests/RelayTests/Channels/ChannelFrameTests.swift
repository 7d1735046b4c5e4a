import Testing

@testable import Relay

@Suite struct `Frames of channels` {
    private func parse(_ type: ChannelFrameType, _ payload: [UInt8]) -> ChannelFrame? {
        payload.withUnsafeBytes { ChannelFrame.parse(type, $0) }
    }

    @Test func `each type is read from its payload`() {
        #expect(parse(.open, Array("{}".utf8)) == .open(Array("{}".utf8)))
        #expect(parse(.accept, [0, 4, 0, 0]) == .accept(credit: 256 << 10))
        #expect(parse(.credit, [0xFF, 0xFF, 0xFF, 0xFF]) == .credit(Int(UInt32.max)))
        #expect(parse(.reject, [0x01, 0x94, 0x6E, 0x6F]) == .reject(code: 404, reason: "no"))
        #expect(parse(.close, [0x03, 0xE8]) == .close(.normal, reason: ""))
        #expect(parse(.end, []) == .end)
        #expect(parse(.ping, []) == .ping([]) && parse(.ping, [1, 2]) == .ping([1, 2]))
    }

    @Test(
        arguments: [
            (.accept, []), (.accept, [0, 0, 0]), (.accept, [0, 0, 0, 0, 0]), (.credit, [1]), (.end, [0]),
            (.reject, []), (.reject, [1]), (.close, [3]), (.reject, [1, 0x94, 0xFF]), (.close, [3, 0xE8, 0xC0, 0x80]),
            (.close, [3, 0xE8, 0xED, 0xA0, 0x80]), (.ping, [UInt8](repeating: 0, count: 126)),
            (.close, [3, 0xE8] + [UInt8](repeating: 0x61, count: 1025)),
            (.open, [UInt8](repeating: 0x20, count: ChannelFrame.maximumOpenBytes + 1)),
        ] as [(ChannelFrameType, [UInt8])])
    func `a payload that is too short, too long or no text is refused`(type: ChannelFrameType, payload: [UInt8]) {
        #expect(parse(type, payload) == nil)
    }

    @Test func `a payload may have its whole limit`() {
        #expect(parse(.open, [UInt8](repeating: 0x20, count: ChannelFrame.maximumOpenBytes)) != nil)
        #expect(parse(.ping, [UInt8](repeating: 0, count: 125)) != nil)
        let reason = String(repeating: "a", count: 1024)
        #expect(parse(.close, [3, 0xE8] + reason.utf8) == .close(.normal, reason: reason))
    }

    @Test func `what no peer may send is no frame, whatever it holds`() {
        let known: [ChannelFrameType] = [.open, .accept, .reject, .credit, .end, .close, .ping]
        for raw in UInt8.min...UInt8.max {
            let type = ChannelFrameType(rawValue: raw)
            #expect((ChannelFrame.maximumPayload(of: type) != nil) == known.contains(type), "\(raw)")
            if !known.contains(type) { #expect(parse(type, []) == nil && parse(type, [0, 0, 0, 0]) == nil, "\(raw)") }
        }
    }

    @Test func `data is four types`() {
        for raw in UInt8.min...UInt8.max {
            #expect(ChannelFrameType(rawValue: raw).isData == [0x00, 0x01, 0x80, 0x81].contains(raw), "\(raw)")
        }
        for isText in [false, true] {
            for more in [false, true] {
                let type = ChannelFrameType.data(isText: isText, more: more)
                #expect(type.isData && type.isText == isText && type.hasMore == more)
            }
        }
    }

    @Test func `a frame is its type, its channel and its payload`() {
        let frame = ChannelFrame.encode(.reject, ChannelNumber(0x0102_0304), [9])
        #expect(frame == [0x12, 1, 2, 3, 4, 9])
        let head = [UInt8](unsafeUninitializedCapacity: ChannelFrame.headLength) { buffer, count in
            ChannelFrame.writeHead(.reject, ChannelNumber(0x0102_0304), into: buffer.baseAddress!)
            count = ChannelFrame.headLength
        }
        #expect(head == Array(frame.prefix(ChannelFrame.headLength)))
    }

    @Test func `what is written is read again`() {
        for credit in [0, 1, 65_536, Int(UInt32.max)] {
            #expect(parse(.credit, ChannelFrame.payload(credit: credit)) == .credit(credit))
        }
        #expect(ChannelFrame.payload(credit: -1) == [0, 0, 0, 0])
        #expect(ChannelFrame.payload(credit: .max) == [0xFF, 0xFF, 0xFF, 0xFF])
        #expect(
            parse(.reject, ChannelFrame.payload(code: .max, reason: "tschüs"))
                == .reject(code: .max, reason: "tschüs"))
    }

    @Test(arguments: ["a", "é", "€", "😀"])
    func `a reason that is too long is cut between characters`(character: Character) {
        let width = character.utf8.count
        let payload = ChannelFrame.payload(code: 1000, reason: "x" + String(repeating: character, count: 2000))
        let expected = "x" + String(repeating: character, count: 1023 / width)
        #expect(parse(.close, payload) == .close(.normal, reason: expected))
    }

    @Test func `numbers say who has opened the channel`() {
        #expect([1, 3, .max].allSatisfy { ChannelNumber($0).isPeers && !ChannelNumber($0).isScripts })
        #expect([2, 6, 0xFFFF_FFFE].allSatisfy { ChannelNumber($0).isScripts && !ChannelNumber($0).isPeers })
        #expect([0, 4, 8].allSatisfy { !ChannelNumber($0).isScripts && !ChannelNumber($0).isPeers })
    }

    @Test func `a code that is no HTTP status is a bad gateway to a clean client`() {
        let statuses = [0, 399, 400, 404, 599, 600, UInt16.max].map { ChannelReject.status($0).code }
        #expect(statuses == [502, 502, 400, 404, 599, 502, 502])
    }
}
