/// A connection of an app, as the app sees it: on its home loop, or on another one, because its channels are there.
enum Member {
    case here(Connection)
    case away(AwayConnection)

    /// The connection itself, where it is on the app's loop.
    var here: Connection? { if case .here(let connection) = self { connection } else { nil } }

    var id: ConnectionID {
        switch self {
        case .here(let connection): connection.id
        case .away(let connection): connection.id
        }
    }

    /// Messages may be sent, and come.
    @inline(__always)
    var isOpen: Bool {
        switch self {
        case .here(let connection): connection.lifecycle.isOpen
        case .away(let connection): connection.isOpen
        }
    }

    var wasOpen: Bool {
        switch self {
        case .here(let connection): connection.wasOpen
        case .away(let connection): connection.wasOpen
        }
    }

    /// What it sends and receives are messages of a channel, a pipe or a link: nobody else may put in a word.
    var isTaken: Bool {
        switch self {
        case .here(let connection):
            connection.pipe != nil || connection.cleanEnd != nil || connection.subprotocol == .link
        case .away(let connection): connection.identity.isClean || connection.identity.subprotocol == .link
        }
    }

    var identity: ConnectionIdentity {
        switch self {
        case .here(let connection): connection.identity
        case .away(let connection): connection.identity
        }
    }

    var subprotocol: Subprotocol? {
        switch self {
        case .here(let connection): connection.subprotocol
        case .away(let connection): connection.identity.subprotocol
        }
    }

    @inline(__always)
    var isLivecode: Bool {
        switch self {
        case .here(let connection): connection.isLivecode
        case .away(let connection): connection.isLivecode
        }
    }

    @inline(__always)
    var isAdmin: Bool {
        switch self {
        case .here(let connection): connection.isAdmin
        case .away(let connection): connection.identity.isAdmin
        }
    }

    @inline(__always)
    var credential: Credential? {
        switch self {
        case .here(let connection): connection.credential
        case .away(let connection): connection.identity.credential
        }
    }

    var isTrustedLink: Bool {
        switch self {
        case .here(let connection): connection.isTrustedLink
        case .away(let connection): connection.identity.isTrustedLink
        }
    }

    /// Whether its own right, its credential or its being a link allows it.
    func may(_ access: Right.Access) -> Bool { isAdmin || isTrustedLink || credential?.allows(access) == true }

    var address: SocketAddress {
        switch self {
        case .here(let connection): connection.address
        case .away(let connection): connection.identity.address
        }
    }

    /// Bytes on their way to it that it has not taken.
    @inline(__always)
    var queuedBytes: Int {
        switch self {
        case .here(let connection): connection.queuedBytes
        case .away(let connection): connection.queuedBytes
        }
    }

    /// The loop that it is on, or on its way to.
    var loop: Int {
        switch self {
        case .here(let connection): connection.destination ?? connection.loop.index
        case .away(let connection): connection.loop
        }
    }

    /// Queues one whole message; false where it takes none any more.
    @inline(__always)
    func sendMessage(_ bytes: UnsafeRawBufferPointer, isText: Bool) -> Bool {
        switch self {
        case .here(let connection): connection.sendMessage(bytes, isText: isText)
        case .away(let connection): connection.sendMessage(bytes, isText: isText)
        }
    }

    func close(_ code: CloseCode, reason: String) {
        switch self {
        case .here(let connection): connection.close(code, reason: reason)
        case .away(let connection): connection.close(code, reason: reason)
        }
    }

    /// Lets the kernel have what is queued now.
    func flush() {
        if case .here(let connection) = self { connection.flush() }
    }

    /// It fills `target`, which has more queued than it should: it is read no further until that has drained.
    func wait(for target: Member) {
        guard target.addWaiter(id), isOpen else { return }
        beginWaiting()
    }

    /// Remembers who waits until its output has drained; false where it is known, or waits in vain.
    func addWaiter(_ waiter: ConnectionID) -> Bool {
        switch self {
        case .here(let connection): !connection.lifecycle.isDead && connection.waiters.insert(waiter).inserted
        case .away(let connection): connection.waiters.insert(waiter).inserted
        }
    }

    /// It is read no further until `stopWaiting`.
    func beginWaiting() {
        switch self {
        case .here(let connection): connection.beginWaiting()
        case .away(let connection): connection.waitsFor += 1
        }
    }

    func stopWaiting() {
        switch self {
        case .here(let connection): connection.stopWaiting()
        case .away(let connection): connection.stopWaiting()
        }
    }

    func callSuspended() {
        switch self {
        case .here(let connection): connection.callSuspended()
        case .away(let connection): connection.suspendedCalls += 1
        }
    }

    func suspendedCallEnded() {
        switch self {
        case .here(let connection): connection.suspendedCallEnded()
        case .away(let connection): connection.suspendedCallEnded()
        }
    }
}

/// What does not change in a connection once it is let in, or asks to be.
struct ConnectionIdentity {
    let id: ConnectionID
    let address: SocketAddress
    let listener: ListenerSettings
    let head: RequestHead?
    let subprotocol: Subprotocol?
    let credential: Credential?
    let isAdmin: Bool
    /// "TLSv1.3", nil on a plain connection.
    let tls: String?
    /// It is one end of a channel as a whole.
    let isClean: Bool
    let isTrustedLink: Bool
}

/// What the app's loop keeps of a connection that lives on another: who it is, and what is on its way there and back.
///
/// Messages to it are posted, and counted until the other loop has taken them. Messages from it are acknowledged when
/// they have been handled; as long as it has to wait for somebody they are not, and so it is read no further.
final class AwayConnection {
    let identity: ConnectionIdentity
    let loop: Int
    let isLivecode: Bool
    private unowned(unsafe) let home: EventLoop  // SAFETY: loops are freed when the process ends.
    unowned let app: App
    /// The 101 was sent.
    var wasOpen: Bool
    /// It is closed, or will be.
    private var isClosing = false
    private(set) var queuedBytes = 0
    var waiters: Set<ConnectionID> = []
    var waitsFor: Int32
    var suspendedCalls: Int32
    /// Of messages that were handled and not acknowledged.
    private var owedBytes = 0
    private var scriptNumbers: ScriptNumbers

    init(_ connection: Connection, at loop: Int, app: App) {
        identity = connection.identity
        self.loop = loop
        self.app = app
        home = app.loop
        isLivecode = connection.isLivecode
        wasOpen = connection.wasOpen
        waitsFor = connection.waitsFor
        suspendedCalls = connection.suspendedCalls
        scriptNumbers = connection.channels?.scriptNumbers ?? ScriptNumbers()
    }

    var id: ConnectionID { identity.id }
    var isOpen: Bool { wasOpen && !isClosing }

    private func post(_ message: LoopMessage) { home.shared.loops[loop].mailbox.post(message) }

    func sendMessage(_ bytes: UnsafeRawBufferPointer, isText: Bool) -> Bool {
        guard isOpen, !identity.isClean else { return false }
        queuedBytes += bytes.count
        post(.connection(id, .send(Array(bytes), isText: isText)))
        return true
    }

    /// The other loop's connection has taken so much.
    func taken(_ bytes: Int) {
        queuedBytes -= bytes
        if queuedBytes <= home.limits.outboundLowBytes { releaseWaiters() }
    }

    /// Lets everybody who waits for its output read again: it has taken that, or is gone.
    func releaseWaiters() {
        let released = waiters
        waiters = []
        for id in released { app.stopWaiting(id) }
    }

    func close(_ code: CloseCode, reason: String) {
        isClosing = true
        post(.close(id, code, reason: reason))
    }

    /// The next number of a channel that a script opens.
    func takeScriptNumber() -> ChannelNumber? { scriptNumbers.take() }

    /// A message of it has been handled.
    func handled(_ bytes: Int) {
        owedBytes += bytes + Connection.messageOverheadBytes
        acknowledge()
    }

    private func acknowledge() {
        guard owedBytes > 0, waitsFor <= 0, suspendedCalls < Connection.maximumSuspendedCalls else { return }
        post(.connection(id, .handled(bytes: owedBytes)))
        owedBytes = 0
    }

    func stopWaiting() {
        waitsFor -= 1
        acknowledge()
    }

    func suspendedCallEnded() {
        suspendedCalls -= 1
        acknowledge()
    }
}
