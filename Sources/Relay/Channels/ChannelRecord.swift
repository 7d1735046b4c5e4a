internal import Synchronization

/// How many channels a loop carries: what decides where the next server goes.
final class LoopLoad: Sendable {
    let channels = Atomic<Int>(0)
}

/// Payload and whole messages in one direction of a channel. Written by one loop only, so that counting takes no lock.
/// An object of its own, because a record that is known to lists is dear to hold and let go.
final class ChannelTraffic: Sendable {
    let bytes = Atomic<Int>(0)
    let messages = Atomic<Int>(0)

    @inline(__always)
    func count(_ byteCount: Int, messages count: Int) {
        bytes.store(bytes.load(ordering: .relaxed) &+ byteCount, ordering: .relaxed)
        messages.store(messages.load(ordering: .relaxed) &+ count, ordering: .relaxed)
    }
}

/// What is known of one channel wherever it is: who meets whom, since when, and how much has moved. Shared by the two
/// ends and by the app that lists it; gone when both ends are.
final class ChannelRecord: Sendable {
    let serial: UInt64
    let client: ConnectionID
    let server: ServerID
    let serverConnection: ConnectionID
    let port: UInt16
    let remoteAddress: String
    /// Milliseconds of the monotonic clock.
    let openedAt: UInt64

    let toServer = ChannelTraffic()
    let toClient = ChannelTraffic()

    private let load: LoopLoad
    private static let last = Atomic<UInt64>(0)

    init(
        client: ConnectionID, server: ServerID, serverConnection: ConnectionID, port: UInt16, remoteAddress: String,
        openedAt: UInt64, load: LoopLoad
    ) {
        serial = Self.last.wrappingAdd(1, ordering: .relaxed).newValue
        self.client = client
        self.server = server
        self.serverConnection = serverConnection
        self.port = port
        self.remoteAddress = remoteAddress
        self.openedAt = openedAt
        self.load = load
        load.channels.add(1, ordering: .relaxed)
    }

    deinit { load.channels.subtract(1, ordering: .relaxed) }
}
