internal import CBarrier
internal import Glibc
internal import Logging

/// What happens to messages between one receive and the output of the connection that they are for, which nobody sends:
/// through a channel, and through a pipe, which a channel is compared with.
///
/// One operation is one message of 64 B; 32 come in a receive.
struct Channels {
    private let loop: EventLoop
    /// The ends of a pipe.
    private let near: Connection
    private let far: Connection
    /// The ends of a channel.
    private let clean: Connection
    private let multiplexed: Connection

    private static let payloadBytes = 64
    private static let messages = 32
    private static let number = ChannelNumber(4)

    init() throws {
        let shared = SharedState(
            configuration: Configuration(), credentials: try Self.makeCredentials(),
            logger: Logger(label: "micro") { _ in SwiftLogNoOpLogHandler() },
            makeEngine: { _, _ in preconditionFailure("no app is made here") })
        let loop = try EventLoop(index: 0, shared: shared, backend: .epoll(try EpollBackend()))
        shared.start([loop])
        self.loop = loop
        near = Self.open(loop)
        far = Self.open(loop)
        near.pipe(to: far)
        clean = Self.open(loop)
        multiplexed = Self.open(loop)
        multiplexed.beginMultiplexing()
        joinChannel()
    }

    /// A relay has a directory of credentials; nobody uses these.
    private static func makeCredentials() throws -> CredentialStore {
        var path = Array("/tmp/micro-XXXXXX".utf8CString)
        guard mkdtemp(&path) != nil else { preconditionFailure("no temporary directory can be made") }
        let directory = String(decoding: path.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        defer {
            unlink(directory + "/admin.credential")
            rmdir(directory)
        }
        return try CredentialStore.open(stateDirectory: directory)
    }

    /// A connection that is open, on a descriptor that is none.
    private static func open(_ loop: EventLoop) -> Connection {
        let listener = ListenerSettings(
            ListenerURL(address: .unix(path: "/")), boundPort: nil, isAdmin: false, tls: nil)
        let connection = Connection(
            fileDescriptor: -1, address: .unix, listener: listener, loop: loop, isCounted: false,
            isAddressCounted: false)
        connection.lifecycle.headRead()
        _ = connection.lifecycle.admitted()
        return connection
    }

    /// A channel with credit for ever.
    private func joinChannel() {
        let record = ChannelRecord(
            client: clean.id, server: .number(0), serverConnection: multiplexed.id, port: 0, remoteAddress: "",
            openedAt: 0, load: loop.load)
        let client = ChannelEnd(clean, .connection, isServer: false)
        let server = ChannelEnd(multiplexed, Self.number, isServer: true)
        clean.cleanEnd = client
        multiplexed.channels?.insert(server)
        client.open(to: server, nil, credit: .max / 2, record)
        server.open(to: client, nil, credit: .max / 2, record)
    }

    var benchmarks: [Benchmark] {
        let message = [UInt8](repeating: UInt8(ascii: "x"), count: Self.payloadBytes)
        let frame = ChannelFrame.encode(.data(isText: false, more: false), Self.number, message)
        return [
            through("pipe, 64 B", near, far, message),
            through("channel, clean to multiplexed, 64 B", clean, multiplexed, message),
            through("channel, multiplexed to clean, 64 B", multiplexed, clean, frame),
        ]
    }

    /// Receives on one connection, and throws away what the other would send.
    @inline(never)
    private func through(_ name: String, _ source: Connection, _ target: Connection, _ payload: [UInt8]) -> Benchmark {
        let wire = Frames.maskedFrames(.binary, payload, count: Self.messages)
        // Frames are unmasked where they lie.
        let received = UnsafeMutableRawBufferPointer.allocate(byteCount: wire.count, alignment: 64)
        return Benchmark(name, iterations: 320_000) { [loop] count in
            for _ in 0..<(count / Self.messages) {
                received.copyMemory(from: UnsafeRawBufferPointer(wire))
                source.received(received)
                precondition(target.outbound.byteCount > Self.messages * Self.payloadBytes, "a message went nowhere")
                barrier_memory(UnsafeMutableRawPointer(mutating: target.outbound.first.baseAddress))
                target.outbound.consume(target.outbound.byteCount, to: loop.pool)
            }
        }
    }
}
