internal import CLinux
internal import Glibc
internal import Synchronization

/// What another thread asks of a loop. Whatever crosses threads in the relay is one of these.
enum LoopMessage: Sendable {
    /// A connection that was on another loop lives here from now on.
    case adopt(ConnectionTransfer)
    /// For a connection that lives here, from its app.
    case connection(ConnectionID, ConnectionMessage)
    /// For an app whose home is this loop, from a connection that lives elsewhere.
    case app(AppTransfer, AppMessage)
    /// For one end of a channel, from the other.
    case channel(ChannelAddress, ChannelEvent)
    /// A client is let in to a server that is here.
    case openChannel(ChannelOpening)
    /// A connection here has the ticket of an open that waits.
    case joinChannel(ConnectionID, ChannelTicket)
    /// Close a connection that is, or was, here.
    case close(ConnectionID, CloseCode, reason: String)
    /// A link of the configuration was dialled, for an app whose home is this loop.
    case dialled(DialAttempt)
    /// An app's home is this loop.
    case addApp(AppTransfer)
    /// The app of this name, if it still is the one with this serial.
    case removeApp(String, serial: UInt64)
    /// Close what a revoked credential opened.
    case revoked(credential: String)
    /// Limits, log levels or certificates are new: read them again.
    case configurationChanged
    /// Accept nothing more and close what is open within the time given.
    case drain(milliseconds: UInt64)
    case stop

    /// Reading it can run a script, for as long as a burst.
    var entersScripts: Bool {
        switch self {
        case .app: true
        case .channel(let address, _): address.number == .script
        default: false
        }
    }
}

/// Where other threads leave messages for a loop: taken all at once, so that a batch costs one wake-up.
final class Mailbox: Sendable {
    /// Becomes readable when there is something to take: an eventfd(2).
    let fileDescriptor: Int32
    private let messages = Mutex<[LoopMessage]>([])

    init() throws(StartError) {
        fileDescriptor = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard fileDescriptor >= 0 else {
            throw StartError("cannot create an eventfd: \(System.describe(errno: errno))")
        }
    }

    deinit { System.close(fileDescriptor) }

    /// Leaves a message; from any thread. Messages of one thread arrive in order.
    func post(_ message: LoopMessage) {
        let wasEmpty = messages.withLock { messages in
            messages.append(message)
            return messages.count == 1
        }
        // Whoever fills an empty box wakes the loop; the loop takes all that came until then.
        guard wasEmpty else { return }
        var one: UInt64 = 1
        _ = write(fileDescriptor, &one, MemoryLayout<UInt64>.size)
    }

    /// Takes everything; only the loop does.
    func take() -> [LoopMessage] {
        var count: UInt64 = 0
        _ = read(fileDescriptor, &count, MemoryLayout<UInt64>.size)
        return messages.withLock { messages in
            let taken = messages
            messages = []
            return taken
        }
    }
}
