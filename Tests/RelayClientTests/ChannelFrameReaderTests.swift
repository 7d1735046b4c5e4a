import Relay
import Testing

@testable import RelayClient

@Suite struct ChannelFrameReaderTests {
    /// What a message comes to, cut at the places given, as text that can be compared: data is joined.
    private func read(_ message: [UInt8], cuts: [Int] = []) -> String {
        var reader = ChannelFrameReader()
        var data: [UInt8] = []
        var result = ""
        let bounds = [0] + cuts + [message.count]
        for (index, (start, end)) in zip(bounds, bounds.dropFirst()).enumerated() {
            let step = Array(message[start..<end]).withUnsafeBytes { piece in
                let step = reader.read(piece, isFirst: index == 0, isLast: index == bounds.count - 2)
                if case .data(_, _, let range, _) = step { data += piece[range] }
                return step
            }
            switch step {
            case .more: continue
            case .data(let number, let isText, _, let endsMessage):
                result = "\(isText ? "text" : "binary") \(number) \(data)" + (endsMessage ? "." : "…")
            case .frame(let number, let frame): result += "\(number) \(frame)"
            case .drain(let json): result += "drain \(String(decoding: json, as: UTF8.self))"
            case .violation(let reason): return "\(reason)"
            }
        }
        return result
    }

    private static let messages: [(bytes: [UInt8], meaning: String)] = [
        ([0x00, 0, 0, 0, 1, 7, 8, 9], "binary 1 [7, 8, 9]."), ([0x01, 0, 0, 1, 2, 65], "text 258 [65]."),
        ([0x80, 0, 0, 0, 2, 7, 8], "binary 2 [7, 8]…"), ([0x00, 0, 0, 0, 2], "binary 2 []."), ([0x80, 0, 0, 0, 2], ""),
        ([0x10, 0, 0, 0, 2, 123, 125], "2 open([123, 125])"),
        ([0x11, 0, 0, 0, 3, 0, 4, 0, 0], "3 accept(credit: 262144)"),
        ([0x12, 0, 0, 0, 3, 1, 0xF6, 110, 111], #"3 reject(code: 502, reason: "no")"#),
        ([0x13, 0, 0, 0, 3, 0xFF, 0xFF, 0xFF, 0xFF], "3 credit(4294967295)"), ([0x14, 0, 0, 0, 3], "3 end"),
        ([0x15, 0, 0, 0, 3, 3, 0xE8], #"3 close(1000 (normal), reason: "")"#),
        ([0x16, 0, 0, 0, 0] + Array("{}".utf8), "drain {}"), ([0x18, 0, 0, 0, 0, 1, 2], ""),
    ]

    @Test(arguments: messages)
    func `a frame means the same wherever its message is cut`(bytes: [UInt8], meaning: String) {
        #expect(read(bytes) == meaning)
        for cut in 0...bytes.count { #expect(read(bytes, cuts: [cut]) == meaning, "cut at \(cut)") }
        #expect(read(bytes, cuts: Array(1..<bytes.count)) == meaning, "byte by byte")
    }

    @Test(
        arguments: [
            [], [0x00], [0x14, 0, 0, 0], [0x02, 0, 0, 0, 1], [0x19, 0, 0, 0, 1], [0x7F, 0, 0, 0, 1],
            [0x90, 0, 0, 0, 1],
            [0x00, 0, 0, 0, 0, 1], [0x14, 0, 0, 0, 0], [0x16, 0, 0, 0, 1], [0x18, 0, 0, 0, 1], [0x17, 0, 0, 0, 0],
            [0x14, 0, 0, 0, 1, 0], [0x11, 0, 0, 0, 1, 0, 0, 0], [0x13, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            [0x15, 0, 0, 0, 1, 3],
            [0x12, 0, 0, 0, 1, 1, 0xF6, 0xFF],
        ] as [[UInt8]])
    func `what is no frame of a relay is a violation`(bytes: [UInt8]) {
        for cuts in [[], Array(0..<bytes.count)] {
            let result = read(bytes, cuts: cuts)
            #expect(result.hasPrefix("a frame"), "\(bytes): \(result)")
        }
    }

    @Test func `a frame that is no data has a limit`() {
        let open: [UInt8] = [0x10, 0, 0, 0, 2]
        let most = ChannelFrame.maximumOpenBytes
        #expect(read(open + [UInt8](repeating: 32, count: most)).hasPrefix("2 open"))
        #expect(read(open + [UInt8](repeating: 32, count: most + 1)) == "a frame is too long")
        #expect(
            read([0x16, 0, 0, 0, 0] + [UInt8](repeating: 32, count: ChannelFrameReader.maximumDrainBytes + 1))
                == "a frame is too long")
    }

    @Test func `a message that ends before its time leaves nothing behind`() {
        var reader = ChannelFrameReader()
        let half: [UInt8] = [0x11, 0, 0]
        _ = half.withUnsafeBytes { reader.read($0, isFirst: true, isLast: false) }
        let whole: [UInt8] = [0x00, 0, 0, 0, 1, 9]
        let step = whole.withUnsafeBytes { reader.read($0, isFirst: true, isLast: true) }
        guard case .data(ChannelNumber(1), false, 5..<6, true) = step else {
            Issue.record("\(step)")
            return
        }
    }
}

@Suite struct ChannelNumbersTests {
    @Test func `ours are odd and ascend until they are used up`() {
        var numbers = ChannelNumbers()
        #expect(!numbers.wasUsed(ChannelNumber(1)))
        let taken = [numbers.take(), numbers.take()]
        #expect(taken == [ChannelNumber(1), ChannelNumber(3)])
        #expect(numbers.wasUsed(ChannelNumber(1)))
        #expect(numbers.wasUsed(ChannelNumber(3)))
        #expect(!numbers.wasUsed(ChannelNumber(5)))
    }

    @Test func `the relay's are even`() {
        var numbers = ChannelNumbers()
        let admitted = [
            numbers.admit(ChannelNumber(7)), numbers.admit(ChannelNumber(8)), numbers.admit(ChannelNumber(2)),
        ]
        #expect(admitted == [false, true, true])
        #expect(numbers.wasUsed(ChannelNumber(8)))
        #expect(!numbers.wasUsed(ChannelNumber(10)))
        #expect(!numbers.wasUsed(ChannelNumber(7)))
    }
}

@Suite struct OpenRequestTests {
    @Test func `an open is read as the document has it`() throws {
        let json = #"{"server":"box","port":22,"remoteAddress":"::1","metadata":{"a":1},"credit":5,"ticket":"t"}"#
        let request = try #require(OpenRequest(Array(json.utf8)))
        #expect(request.server == .name("box"))
        #expect(request.port == 22)
        #expect(request.remoteAddress == "::1")
        #expect(request.metadata == .object(["a": .integer(1)]))
        #expect(request.credit == 5)
        let short = try #require(OpenRequest(Array(#"{"server":0,"port":0}"#.utf8)))
        #expect(short.server == .number(0))
        #expect(short.credit == 262_144)
        #expect(short.metadata == .null)
    }

    @Test(arguments: [
        "", "[]", "{}", #"{"server":"box"}"#, #"{"server":"box","port":65536}"#, #"{"server":"box","port":-1}"#,
        #"{"server":"box","port":"22"}"#, #"{"server":null,"port":1}"#, #"{"server":"box","port":1,"credit":-1}"#,
        #"{"server":"box","port":1,"credit":4294967296}"#, #"{"server":"box","port":1,"credit":"5"}"#,
    ])
    func `what is none is refused`(json: String) {
        #expect(OpenRequest(Array(json.utf8)) == nil)
    }

    @Test(arguments: [
        ("box", #"{"server":"box","port":22,"credit":9}"#, "box"), ("0", #"{"server":0,"port":22,"credit":9}"#, "0"),
        ("007", #"{"server":"007","port":22,"credit":9}"#, "007"),
        ("-1", #"{"server":"-1","port":22,"credit":9}"#, "-1"),
        ("a\"/é", #"{"server":"a\"/é","port":22,"credit":9}"#, "a%22%2F%C3%A9"),
        ("99999999999999999999", #"{"server":"99999999999999999999","port":22,"credit":9}"#, "99999999999999999999"),
    ])
    func `a server's id is the same in an open and in a path`(text: String, json: String, segment: String) {
        let server = ServerID(text)
        #expect(String(decoding: OpenRequest.encode(server: server, port: 22, credit: 9), as: UTF8.self) == json)
        #expect(server.pathSegment == segment)
    }
}
