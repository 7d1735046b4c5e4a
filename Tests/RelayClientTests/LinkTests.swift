import Glibc
import Relay
import Testing

@testable import RelayClient

/// A link over a pair of sockets, the other end of which plays the relay.
private final class Line: SessionHandler {
    let loop = ClientLoop()
    private let peer: Int32
    private var link: Link?
    private var reader = WebSocketReader(role: .server)
    /// What becomes of channels that the relay offers; they are rejected where it is nil.
    var take: ((OpenRequest, ChannelNumber, Link) -> ChannelEnd)?
    var texts: [String] = []

    init() throws {
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0, &ends) == 0)
        peer = ends[1]
        let session = Session(
            try RelayURL(parsing: "ws://relay"), trust: Trust(), credential: nil, retriesFirst: false, handler: self,
            loop: loop)
        let link = Link(SocketStream(fileDescriptor: ends[0]), owner: session, loop: loop)
        link.start(received: [])
        self.link = link
    }

    deinit { close(peer) }

    /// Says that everything is ready, and lets the link have its turn.
    func turn() {
        link?.ready(Readiness(events: 0x5))
        link?.turn()
    }

    func deadlinePassed() { link?.deadlinePassed(loop) }

    var isOpen: Bool { link?.phase == .open }

    func end(_ number: UInt32) -> ChannelEnd? { link?.channels[ChannelNumber(number)] }

    @discardableResult
    func open(_ make: (ChannelNumber, Link) -> ChannelEnd) -> ChannelEnd? {
        guard let link else { return nil }
        var made: ChannelEnd?
        _ = link.open([0x7B, 0x7D]) { number in
            let end = make(number, link)
            made = end
            return end
        }
        return made
    }

    // MARK: The relay

    func send(_ opcode: Opcode, _ payload: [UInt8]) {
        var frame = [UInt8](repeating: 0, count: FrameHeader.maximumLength)
        let length = frame.withUnsafeMutableBytes {
            FrameEncoder.writeHeader(isFinal: true, opcode: opcode, payloadLength: payload.count, into: $0.baseAddress!)
        }
        frame = Array(frame[..<length]) + payload
        #expect(write(peer, frame, frame.count) == frame.count)
    }

    /// Sends a frame of relay.v1, and lets the link take it.
    func frame(_ type: UInt8, _ number: UInt32, _ payload: [UInt8] = []) {
        send(.binary, [type] + withUnsafeBytes(of: number.bigEndian, Array.init) + payload)
        turn()
    }

    /// What the link has sent: `TYPE NUMBER BYTES` of frames, and control frames by their names.
    func sent() -> [String] {
        var buffer = [UInt8](repeating: 0, count: 4 << 20)
        let count = recv(peer, &buffer, buffer.count, 0)
        guard count > 0 else { return [] }
        var result: [String] = []
        var message: [UInt8] = []
        buffer.withUnsafeMutableBytes { all in
            let bytes = UnsafeMutableRawBufferPointer(rebasing: all[..<count])
            var offset = 0
            while offset < count {
                switch reader.next(bytes, &offset) {
                case .data(_, let range, let isFirst, let isLast):
                    if isFirst { message = [] }
                    message += bytes[range]
                    guard isLast else { continue }
                    let number = message[1..<5].reduce(0) { $0 << 8 | Int($1) }
                    let payload = message.count > 25 ? "\(message.count - 5) bytes" : "\(Array(message[5...]))"
                    result.append("\(String(message[0], radix: 16)) \(number) \(payload)")
                case .close(let code, _): result.append("close \(code.map { "\($0.rawValue)" } ?? "-")")
                case .pong(let payload): result.append("pong \(Array(payload))")
                case .ping: result.append("ping")
                case .needsInput, .violation: return
                }
            }
        }
        return result
    }

    // MARK: SessionHandler

    func connected(_ session: Session) {}
    func lost(_ session: Session, _ failure: ClientFailure, retryInSeconds: Double) {}
    func ended(_ session: Session, _ failure: ClientFailure) {}
    func received(text: String) { texts.append(text) }
    func offered(_ request: OpenRequest, _ number: ChannelNumber, on link: Link) -> Offer {
        take.map { .take($0(request, number, link)) } ?? .reject(ChannelClose(404, "no"))
    }
}

/// An end that notes what it is told, and has so many bytes to send in each turn.
private final class Recorder: ChannelEnd {
    var notes: [String] = []
    var turnBytes = 0
    var turnsLeft = 0

    override func opened() { notes.append("opened") }
    override func deliver(_ piece: UnsafeRawBufferPointer, isText: Bool, endsMessage: Bool) {
        notes.append("\(Array(piece))")
    }
    override func deliveryEnds() { notes.append("written") }
    override func endReceived() { notes.append("end") }
    override func over(_ close: ChannelClose?) { notes.append(close.map { "over \($0.code)" } ?? "over") }
    override func takeTurn(limit: Int) -> Bool {
        let count = min(limit, turnBytes, state.sendable)
        guard turnsLeft > 0, count > 0 else { return false }
        turnsLeft -= 1
        [UInt8](repeating: 0, count: count).withUnsafeBytes {
            link?.send(.data(isText: false, more: false), number, $0)
        }
        state.sent(count)
        return turnsLeft > 0
    }
}

@Suite struct LinkTests {
    private func openChannel(_ line: Line, window: Int = 100) -> Recorder? {
        let end = line.open { Recorder(.opening(window: window), number: $0, link: $1) } as? Recorder
        line.turn()
        return end
    }

    @Test func `a channel opens, carries bytes both ways and ends`() throws {
        let line = try Line()
        let end = try #require(openChannel(line))
        #expect(line.sent() == ["10 1 [123, 125]"])
        line.frame(0x11, 1, [0, 0, 0, 10])
        line.frame(0x00, 1, [7, 8])
        line.frame(0x14, 1)
        #expect(end.notes == ["opened", "[7, 8]", "written", "end"])
        end.turnBytes = 6
        end.turnsLeft = 9
        end.enqueue()
        line.turn()
        #expect(line.sent() == ["0 1 [0, 0, 0, 0, 0, 0]", "0 1 [0, 0, 0, 0]"])
        end.end()
        line.turn()
        #expect(line.sent() == ["14 1 []"])
        #expect(line.end(1) == nil)
        // What still comes is ignored.
        line.frame(0x13, 1, [0, 0, 0, 10])
        #expect(line.isOpen)
    }

    @Test func `pieces of one receive are delivered together, those of another channel apart`() throws {
        let line = try Line()
        let (one, other) = (try #require(openChannel(line)), try #require(openChannel(line)))
        for number: UInt32 in [1, 3] { line.frame(0x11, number, [0, 0, 0, 10]) }
        for number: UInt8 in [1, 1, 3, 1] { line.send(.binary, [0x00, 0, 0, 0, number, number]) }
        line.turn()
        #expect(one.notes == ["opened", "[1]", "[1]", "written", "[1]", "written"])
        #expect(other.notes == ["opened", "[3]", "written"])
    }

    @Test func `what an end has used is granted anew`() throws {
        let line = try Line()
        let end = try #require(openChannel(line))
        line.frame(0x11, 1, [0, 0, 0, 10])
        _ = line.sent()
        line.frame(0x00, 1, [UInt8](repeating: 1, count: 60))
        end.consume(60)
        line.turn()
        #expect(line.sent() == ["13 1 [0, 0, 0, 60]"])
    }

    @Test func `more than was granted closes the channel and not the connection`() throws {
        let line = try Line()
        let end = try #require(openChannel(line))
        line.frame(0x11, 1, [0, 0, 0, 10])
        _ = line.sent()
        line.frame(0x00, 1, [UInt8](repeating: 1, count: 101))
        #expect(end.notes == ["opened", "over 4006"])
        #expect(line.sent().first?.hasPrefix("15 1 ") == true)
        #expect(line.isOpen)
    }

    @Test func `an offer is taken or rejected`() throws {
        let line = try Line()
        let json = Array(#"{"server":"box","port":1,"credit":5}"#.utf8)
        line.frame(0x10, 4, json)
        #expect(line.sent() == ["12 4 [1, 148, 110, 111]"])
        line.take = { Recorder(.offered(credit: $0.credit, window: 9), number: $1, link: $2) }
        line.frame(0x10, 8, json)
        line.end(8)?.accept()
        line.turn()
        #expect(line.sent() == ["11 8 [0, 0, 0, 9]"])
        #expect(line.end(8)?.state.sendable == 5)
        line.frame(0x15, 8, [3, 0xE8])
        #expect(line.end(8) == nil)
    }

    @Test func `a channel that a script opens is not wanted`() throws {
        let line = try Line()
        line.frame(0x11, 2, [0, 0, 0, 10])
        #expect(line.sent().first?.hasPrefix("15 2 ") == true)
        line.frame(0x12, 6, [1, 0xF6])
        #expect(line.isOpen)
    }

    @Test(
        arguments: [
            [0x00, 0, 0, 0, 1, 1], [0x14, 0, 0, 0, 4], [0x13, 0, 0, 0, 7, 0, 0, 0, 1], [0x10, 0, 0, 0, 3, 123, 125],
            [0x11, 0, 0, 0, 5, 0, 0, 0, 1], [0x10, 0, 0, 0, 2, 123, 125], [0x19, 0, 0, 0, 1], [0x00],
        ] as [[UInt8]])
    func `what nobody may send closes the connection with 1002`(frame: [UInt8]) throws {
        let line = try Line()
        line.take = { Recorder(.offered(credit: $0.credit, window: 9), number: $1, link: $2) }
        line.send(.binary, frame)
        line.turn()
        #expect(line.sent() == ["close 1002"])
        #expect(!line.isOpen)
    }

    @Test func `the relay's pings and close frame are answered, and texts are told`() throws {
        let line = try Line()
        let end = try #require(openChannel(line))
        _ = line.sent()
        line.send(.ping, [1, 2])
        line.send(.text, Array("hello".utf8))
        line.turn()
        #expect(line.sent() == ["pong [1, 2]"])
        #expect(line.texts == ["hello"])
        line.send(.close, [0x03, 0xF4])
        line.turn()
        #expect(line.sent() == ["close 1012"])
        #expect(end.notes == ["over 1006"])
        #expect(!line.isOpen)
    }

    @Test func `a relay that is silent is asked, and given up when it does not answer`() throws {
        let line = try Line()
        line.deadlinePassed()
        line.turn()
        #expect(line.sent() == ["ping"])
        line.send(.pong, [])
        line.turn()
        line.deadlinePassed()
        line.turn()
        #expect(line.sent() == ["ping"])
        #expect(line.isOpen)
        line.deadlinePassed()
        #expect(!line.isOpen)
    }

    @Test func `a channel that has just begun to send goes before those that have for longer`() throws {
        let line = try Line()
        var ends: [Recorder] = []
        for _ in 0..<3 { ends.append(try #require(openChannel(line))) }
        for number: UInt32 in [1, 3, 5] { line.frame(0x11, number, [0, 16, 0, 0]) }
        _ = line.sent()
        for bulk in ends[..<2] {
            bulk.turnBytes = 1 << 20
            bulk.turnsLeft = 1000
            bulk.enqueue()
        }
        line.turn()
        // The first of each is short, as nobody knows yet what it will be; then they take turns until the quantum is
        // full.
        #expect(line.sent() == ["0 1 4096 bytes", "0 3 4096 bytes", "0 1 16384 bytes"])
        ends[2].turnBytes = 3
        ends[2].turnsLeft = 1
        ends[2].enqueue()
        line.turn()
        #expect(line.sent().first == "0 5 [0, 0, 0]")
    }

    @Test func `a channel alone in sending gets all of each turn, which grows`() throws {
        let line = try Line()
        let end = try #require(openChannel(line))
        line.frame(0x11, 1, [0, 32, 0, 0])
        _ = line.sent()
        end.turnBytes = 1 << 20
        end.turnsLeft = 1000
        end.enqueue()
        var sizes: [String] = []
        for _ in 0..<3 {
            line.turn()
            sizes += line.sent()
        }
        #expect(sizes == ["0 1 16384 bytes", "0 1 32768 bytes", "0 1 65536 bytes"])
    }
}
