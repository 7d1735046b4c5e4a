import Glibc
import Testing

@testable import Relay

/// The backends that the tests of one contract run on.
enum BackendKind: String, CaseIterable, CustomTestStringConvertible {
    case epoll
    case uring = "io_uring"
    case uringWholeBuffers = "io_uring, whole buffers"

    static let isUringAllowed = (try? UringBackend()) != nil
    static var available: [BackendKind] { isUringAllowed ? allCases : [.epoll] }

    var testDescription: String { rawValue }

    func make() throws(StartError) -> Backend {
        switch self {
        case .epoll: .epoll(try EpollBackend())
        case .uring: .uring(try UringBackend())
        case .uringWholeBuffers: .uring(try UringBackend(incrementalBuffers: false))
        }
    }
}

/// The other end of a connection: a TCP socket on loopback that does not block.
final class Peer {
    let fileDescriptor: Int32
    private var isOpen = true

    init(connectedTo port: Int, isNarrow: Bool = false) throws {
        fileDescriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        try #require(fileDescriptor >= 0, "\(System.describe(errno: errno))")
        if isNarrow { System.setOption(fileDescriptor, SOL_SOCKET, SO_RCVBUF, 4096) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let code = withUnsafeBytes(of: &address) {
            Glibc.connect(
                fileDescriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
        }
        try #require(code == 0, "\(System.describe(errno: errno))")
        try #require(fcntl(fileDescriptor, F_SETFL, O_NONBLOCK) == 0)
    }

    deinit { close() }

    /// Sends what the kernel takes at once; the rest is returned.
    @discardableResult
    func send(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var rest = bytes
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(fileDescriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { break }
            rest = rest.dropFirst(count)
        }
        return rest
    }

    enum Reading: Equatable { case bytes([UInt8]), end, reset, nothing }

    func receive(atMost most: Int = 1 << 16) -> Reading {
        var room = [UInt8](repeating: 0, count: most)
        let count = recv(fileDescriptor, &room, most, 0)
        if count > 0 { return .bytes(Array(room[..<count])) }
        if count == 0 { return .end }
        return errno == EAGAIN ? .nothing : .reset
    }

    func endOutput() { System.shutdownWrite(fileDescriptor) }

    /// Ends with an RST (socket(7): lingering for no time), whatever was read.
    func reset() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(fileDescriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
        close()
    }

    func close() {
        guard isOpen else { return }
        isOpen = false
        System.close(fileDescriptor)
    }
}

/// A loop whose turns the test makes by hand, on one thread: what completes is remembered, by connection.
final class BackendFixture {
    struct Heard {
        var bytes: [UInt8] = []
        var receives = 0
        /// How many bytes came before the end of the stream.
        var end: Int?
        var failure: Int32?
    }

    private let app: AppFixture
    private let settings = ListenerSettings(
        ListenerURL(address: .internet(host: "127.0.0.1", port: 0)), boundPort: 1, isAdmin: false, tls: nil)
    private let listening: Int32
    let port: Int
    var loop: EventLoop { app.loop }
    var backend: Backend { loop.backend }
    var table: ConnectionTable { loop.table }
    private(set) var accepted: [(fileDescriptor: Int32, address: SocketAddress)] = []
    private var heard: [ConnectionID: Heard] = [:]
    /// What a connection does as it receives.
    var onReceive: (Connection) -> Void = { _ in }

    init(_ kind: BackendKind) throws {
        app = try AppFixture(backend: kind.make())
        let bound = try Binding.tcp(host: "127.0.0.1", port: 0, count: 1)
        (listening, port) = (bound.descriptors[0], bound.port)
        app.loop.backend.start()
    }

    deinit {
        for connection in table.all { disconnect(connection) }
        turn()  // Submits the cancellations.
        for (fileDescriptor, _) in accepted { System.close(fileDescriptor) }
        System.close(listening)
    }

    subscript(_ connection: Connection) -> Heard { heard[connection.id, default: Heard()] }

    // MARK: Sockets

    /// A connection that receives, and its other end. Narrow ones have kernel buffers that are full at once.
    func connect(isNarrow: Bool = false) throws -> (connection: Connection, peer: Peer) {
        let peer = try Peer(connectedTo: port, isNarrow: isNarrow)
        guard case .accepted(let fileDescriptor, let address) = System.accept(listening) else {
            throw StartError("nothing to accept: \(System.describe(errno: errno))")
        }
        if isNarrow { System.setOption(fileDescriptor, SOL_SOCKET, SO_SNDBUF, 4096) }
        let connection = Connection(
            fileDescriptor: fileDescriptor, address: address, listener: settings, loop: loop, isCounted: false,
            isAddressCounted: false)
        adopt(connection)
        return (connection, peer)
    }

    func adopt(_ connection: Connection) {
        table.insert(connection)
        #expect(backend.add(&connection.handle))
    }

    /// The listening socket, accepted from by the backend from now on. Its descriptor stays the fixture's.
    func listen() throws -> Listener {
        let listener = Listener(fileDescriptor: dup(listening), settings: settings)
        try loop.add(listener)
        return listener
    }

    /// As `EventLoop.remove` does it.
    func disconnect(_ connection: Connection) {
        table.remove(connection)
        backend.close(&connection.handle, abandoning: connection.takePendingOutput())
        connection.outbound.removeAll(to: loop.pool)
    }

    // MARK: Output

    func send(_ bytes: [UInt8], on connection: Connection) {
        bytes.withUnsafeBytes { connection.outbound.append($0, from: loop.pool) }
        transmit(connection)
    }

    /// As `Connection.transmit` does it.
    private func transmit(_ connection: Connection) {
        while !connection.isSending, !connection.outbound.isEmpty {
            switch backend.send(&connection.handle, connection.outbound) {
            case .sent(let count): connection.outbound.consume(count, to: loop.pool)
            case .pending: connection.isSending = true
            case .failed(let code): return failed(connection, code)
            }
        }
    }

    private func failed(_ connection: Connection, _ code: Int32) {
        heard[connection.id, default: Heard()].failure = code
        disconnect(connection)
    }

    // MARK: Turns

    func turn(timeoutMilliseconds: Int32 = 0) {
        backend.wait(timeoutMilliseconds: timeoutMilliseconds)
        while let completion = backend.next(table) { handle(completion) }
    }

    /// Makes turns until the condition holds; the deadline only makes a failure of a hang.
    func turn(until what: Comment, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () -> Bool) throws {
        let deadline = System.monotonicMilliseconds() + 10_000
        while !condition() {
            try #require(System.monotonicMilliseconds() < deadline, what, sourceLocation: sourceLocation)
            turn(timeoutMilliseconds: 5)
        }
    }

    private func handle(_ completion: Completion) {
        switch completion {
        case .received(let token, let bytes):
            guard let connection = named(token) else { return }
            heard[connection.id, default: Heard()].bytes += bytes
            heard[connection.id, default: Heard()].receives += 1
            onReceive(connection)
        case .endOfStream(let token):
            guard let connection = named(token) else { return }
            heard[connection.id, default: Heard()].end = self[connection].bytes.count
            backend.pauseReceive(&connection.handle)
        case .sent(let token, let count):
            guard let connection = named(token) else { return }
            connection.isSending = false
            connection.outbound.consume(count, to: loop.pool)
            transmit(connection)
        case .receiveFailed(let token, let code), .sendFailed(let token, let code):
            if let connection = named(token) { failed(connection, code) }
        case .accepted(_, let fileDescriptor, let address):
            accepted.append((fileDescriptor, address))
        case .acceptExhausted(_, let code):
            Issue.record("accept: \(System.describe(errno: code))")
        case .readable:
            Issue.record("nobody wrote to the mailbox")
        }
    }

    /// A backend passes completions of those that are gone over.
    private func named(_ token: IOToken) -> Connection? {
        let connection = table[token]
        #expect(connection != nil, "a completion for nobody")
        return connection
    }
}

/// Compares without printing megabytes.
func expectSame(
    _ bytes: some Collection<UInt8>, _ expected: some Collection<UInt8>, at: SourceLocation = #_sourceLocation
) {
    guard !bytes.elementsEqual(expected) else { return }
    let place = zip(bytes, expected).prefix { $0 == $1 }.count
    Issue.record("\(bytes.count) bytes, not \(expected.count); they differ from \(place) on", sourceLocation: at)
}
