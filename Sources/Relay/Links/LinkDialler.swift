internal import CLinux
internal import Glibc
internal import Logging

/// A connection that has been made and has answered the WebSocket handshake.
///
/// `@unchecked Sendable`: whoever makes it forgets it when handing it on.
package struct DialledSocket: @unchecked Sendable {
    package let fileDescriptor: Int32
    package let session: TLSSession?
    /// What came behind the answer.
    package let received: [UInt8]

    package init(fileDescriptor: Int32, session: TLSSession?, received: [UInt8]) {
        self.fileDescriptor = fileDescriptor
        self.session = session
        self.received = received
    }
}

/// What an attempt came to: a connection, or a sentence.
package typealias Dial = @Sendable (LinkURL) -> Result<DialledSocket, ConfigurationError>

/// An attempt, on its way to the app's loop.
struct DialAttempt: Sendable {
    let dialler: LinkDialler
    let result: Result<DialledSocket, ConfigurationError>
}

/// Keeps one link of the configuration: dials in a thread of its own, since names are resolved there, and again, after
/// a pause that grows, when the link could not be made or is gone. All but the thread belongs to the loop of the
/// default app, which is what is linked.
final class LinkDialler: @unchecked Sendable {
    // `@unchecked Sendable`: the thread looks at what never changes alone.
    let url: LinkURL
    private let shared: SharedState
    private let dial: Dial
    /// The pause before the next attempt, in milliseconds, for the thread: an eventfd(2), which holds one number.
    private let pauses = eventfd(0, Int32(EFD_CLOEXEC))
    private var backoff = Backoff()
    private var connectedAt: UInt64 = 0
    /// Why there is no link; nil while there is one, or before the first attempt. Logged once as long as it is the
    /// same.
    private(set) var failure: String?

    init(_ url: LinkURL, _ shared: SharedState, _ dial: @escaping Dial) {
        self.url = url
        self.shared = shared
        self.dial = dial
    }

    /// Begins to dial.
    func start() {
        let thread = System.startThread(name: "link") { [self] in
            while true {
                attempt()
                var pause: UInt64 = 0
                guard read(pauses, &pause, MemoryLayout<UInt64>.size) == MemoryLayout<UInt64>.size else { return }
                usleep(UInt32(clamping: pause * 1000))
            }
        }
        pthread_detach(thread)
    }

    private func attempt() {
        // The default app's home is the first loop.
        shared.loops[0].mailbox.post(.dialled(DialAttempt(dialler: self, result: dial(url))))
    }

    func connected(_ connection: Connection) { connectedAt = connection.loop.now }

    /// The neighbour has introduced itself: the link is there.
    func linked(with relay: RelayID) {
        failure = nil
        shared.logger.info("linked", metadata: ["url": "\(url.url)", "relay": "\(relay)"])
    }

    /// The link could not be made, or is gone.
    func failed(_ reason: String, at now: UInt64) {
        if reason != failure {
            shared.logger.warning("there is no link", metadata: ["url": "\(url.url)", "reason": "\(reason)"])
        }
        failure = reason
        if connectedAt > 0 { backoff.ended(after: Double(now - connectedAt) / 1000) }
        connectedAt = 0
        // An eventfd takes no zero.
        var pause = UInt64(backoff.pause(chance: .random(in: 0..<1)) * 1000) + 1
        _ = write(pauses, &pause, MemoryLayout<UInt64>.size)
    }
}

// The loop's part: a connection that was dialled becomes one of its own.
extension EventLoop {
    func dialled(_ attempt: DialAttempt) {
        let dialler = attempt.dialler
        switch attempt.result {
        case .failure(let error): dialler.failed(error.message, at: now)
        case .success(let socket):
            guard !isDraining else { return System.close(socket.fileDescriptor) }
            if let reason = adopt(socket, dialler) {
                System.close(socket.fileDescriptor)
                dialler.failed(reason, at: now)
            }
        }
    }

    /// The reason where it cannot be.
    private func adopt(_ socket: DialledSocket, _ dialler: LinkDialler) -> String? {
        guard let app = apps[App.defaultName] else { return "there is no default app" }
        guard let address = System.peerAddress(socket.fileDescriptor) else { return "the other relay has left" }
        if let refusal = shared.enter(nil, limits) { return "\(refusal.reason)" }
        let connection = Connection(
            fileDescriptor: socket.fileDescriptor, address: address,
            listener: ListenerSettings(dialled: dialler.url.url), loop: self, isCounted: true,
            isAddressCounted: false, dialled: socket)
        table.insert(connection)
        shared.directory.set(connection.id, loop: index)
        dialler.connected(connection)
        app.begin(connection, dialler)
        guard backend.add(&connection.handle) else {
            connection.disconnect(code: .tryAgainLater, reason: "the connection cannot be watched")
            return nil
        }
        connection.beginLink(received: socket.received)
        return nil
    }
}

extension Connection {
    /// A link that this relay has dialled begins; `received` came behind the handshake.
    func beginLink(received: [UInt8]) {
        wasOpen = true
        isTrustedLink = true
        subprotocol = .link
        limitsChanged()
        beginMultiplexing()
        deadlines.enter(.open, at: loop.now)
        deadlines.lastReceived = loop.now
        updateTimer()
        unread = received
        begin()
    }
}
