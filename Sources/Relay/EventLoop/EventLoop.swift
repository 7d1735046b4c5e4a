internal import CLinux
internal import Glibc
internal import Logging

/// One thread's share of the relay: its sockets, timers, apps and mailbox. A turn of the loop goes one way:
///
///     wait → completions and mailbox → timers → closed connections → one send per connection that has output
///
/// Everything here belongs to the loop's thread, `mailbox` excepted. `@unchecked Sendable` because references to a loop
/// cross threads for the sake of that mailbox alone.
final class EventLoop: @unchecked Sendable {
    let index: Int
    let mailbox: Mailbox
    let shared: SharedState
    let backend: Backend
    let table = ConnectionTable()
    let pool = ChunkPool()
    var maskingKeys = MaskingKeys()
    /// Where TLS decrypts to: lent to one connection at a time, within one receive.
    let plaintext = UnsafeMutableRawBufferPointer.allocate(byteCount: EpollBackend.receiveBytes, alignment: 64)

    /// Milliseconds of the monotonic clock, read once a turn.
    private(set) var now = System.monotonicMilliseconds()
    private(set) var limits: Limits
    private(set) var trustedProxies: [CIDR]
    /// The apps whose home is this loop.
    var apps: [String: App] = [:]
    /// Set once the relay drains: nothing new is let in.
    private(set) var isDraining = false

    /// The connections of this loop that are, or carry, ends of channels.
    var channelConnections: [ConnectionID: Connection] = [:]
    /// The channels that scripts of this loop have dialled.
    var scriptChannels: [ConnectionID: ScriptChannel] = [:]
    let load = LoopLoad()
    var httpDate = HTTPDate()
    private var wheel = TimerWheel()
    /// Timers that are due; those before `firedCount` have been served.
    private var expired: [UInt64] = []
    private var firedCount = 0
    /// Mail that was taken; what comes before `readCount` has been read.
    private var mail: [LoopMessage] = []
    private var readCount = 0
    /// So long a turn fires timers, and reads mail, that enter scripts.
    private static let scriptMilliseconds: UInt64 = 10
    private var dirty: [Connection] = []
    private var closed: [Connection] = []
    private var resumed: [Connection] = []
    private var departing: [(connection: Connection, target: EventLoop)] = []
    private var scriptTimers: [UInt64: App] = [:]
    /// Closes of connections that are still on their way here from another loop.
    private var closesAhead: [ConnectionID: (code: CloseCode, reason: String)] = [:]
    private var handshakeStorm = HandshakeStorm()
    /// Connections that are refused and not gone yet.
    private var refusedCount = 0
    /// So many are told why; beyond, a connection is closed without a word, because nothing may be left without bound.
    private static let maximumRefused = 64
    private var isRunning = true
    private var signals: SignalSource?
    private var onSignal: (SignalSource.Signal) -> Void = { _ in }
    /// Held back so that there is one descriptor to refuse a connection with when all others are used up.
    private var reserve = open("/dev/null", O_RDONLY | O_CLOEXEC)

    init(index: Int, shared: SharedState, backend: Backend) throws(StartError) {
        self.index = index
        self.shared = shared
        limits = shared.configuration.limits
        trustedProxies = shared.configuration.trustedProxies
        self.backend = backend
        mailbox = try Mailbox()
        try watch(mailbox.fileDescriptor, IOToken(.mailbox))
    }

    deinit { plaintext.deallocate() }

    private func watch(_ fileDescriptor: Int32, _ token: IOToken) throws(StartError) {
        var handle = IOHandle(fileDescriptor: fileDescriptor, token: token)
        guard backend.add(&handle) else {
            throw StartError("cannot watch a descriptor: \(System.describe(errno: errno))")
        }
    }

    /// Delivers signals to `handler` on this loop.
    func handle(_ source: SignalSource, with handler: @escaping (SignalSource.Signal) -> Void) throws(StartError) {
        signals = source
        onSignal = handler
        try watch(source.fileDescriptor, IOToken(.signals))
    }

    // MARK: Turns

    /// Runs turns on the calling thread until a `.stop` message.
    func run() {
        backend.start()
        while isRunning { turn() }
        // What the last turn sent may still have to be submitted.
        backend.wait(timeoutMilliseconds: 0)
    }

    private func turn() {
        backend.wait(timeoutMilliseconds: waitTime())
        now = System.monotonicMilliseconds()
        while let completion = backend.next(table) { handle(completion) }
        readMail()
        fireTimers()
        resumeReaders()
        reportClosed()
        flush()
        depart()
    }

    private func waitTime() -> Int32 {
        guard dirty.isEmpty, closed.isEmpty, resumed.isEmpty, expired.isEmpty, mail.isEmpty else { return 0 }
        guard let deadline = wheel.nextDeadline else { return -1 }
        let current = System.monotonicMilliseconds()
        return deadline <= current ? 0 : Int32(clamping: deadline - current)
    }

    @inline(__always)
    private func handle(_ completion: Completion) {
        switch completion {
        case .received(let token, let bytes):
            table[token]?.received(bytes)
        case .sent(let token, let count):
            table[token]?.sent(count)
        case .endOfStream(let token):
            table[token]?.endOfStream()
        case .receiveFailed(let token, _), .sendFailed(let token, _):
            table[token]?.disconnect(code: .abnormalClosure, reason: "")
        case .accepted(let token, let fileDescriptor, let address):
            accepted(fileDescriptor, from: address, on: token)
        case .acceptExhausted(let token, let code):
            acceptExhausted(token, errno: code)
        case .readable(let token):
            if token.owner == .mailbox { mail.append(contentsOf: mailbox.take()) } else { readSignals() }
        }
    }

    private func readSignals() { while let signal = signals?.next() { onSignal(signal) } }

    private func resumeReaders() {
        guard !resumed.isEmpty else { return }
        let batch = resumed
        resumed.removeAll(keepingCapacity: true)
        for connection in batch { connection.resumeReading() }
    }

    /// Tells apps of the connections that are gone. Here and not where a connection dies, so that no script is entered
    /// from within another call.
    private func reportClosed() {
        guard !closed.isEmpty else { return }
        let batch = closed
        closed.removeAll(keepingCapacity: true)
        for connection in batch {
            connection.ask(.closed(connection.id, connection.closeCode, reason: connection.closeReason))
        }
    }

    private func flush() {
        var position = 0
        // A flush can make further connections dirty; they are appended and reached by the same walk.
        while position < dirty.count {
            dirty[position].flush()
            position += 1
        }
        dirty.removeAll(keepingCapacity: true)
    }

    // MARK: What connections ask of their loop

    /// The connection has output: send it at the end of the turn.
    @inline(__always)
    func markDirty(_ connection: Connection) { dirty.append(connection) }

    /// The connection may read again: from the next turn on.
    func resume(_ connection: Connection) { resumed.append(connection) }

    /// The connection is gone: its descriptor is closed and its app is told within this turn.
    func remove(_ connection: Connection) {
        connection.handshakeEnded()
        table.remove(connection)
        channelConnections[connection.id] = nil
        backend.close(&connection.handle, abandoning: connection.takePendingOutput())
        shared.left(connection)
        if !connection.isCounted { refusedCount -= 1 }
        closed.append(connection)
    }

    /// A TLS handshake is under way.
    func handshakeBegan() { handshakeStorm.began() }

    /// It is done, or will never be.
    func handshakeEnded() {
        if handshakeStorm.ended() { _ = malloc_trim(0) }
    }

    /// Gives the connection to another loop at the end of the turn, with everything it has received and not yet used.
    func move(_ connection: Connection, to target: EventLoop) {
        departing.append((connection, target))
    }

    /// The last thing in a turn: nothing of this loop, nor of its backend, refers to a connection any more once another
    /// thread has it. One with an operation under way stays until that has completed, which makes another turn.
    private func depart() {
        guard !departing.isEmpty else { return }
        departing.removeAll { connection, target in
            // Refused or gone meanwhile: it ends here.
            guard connection.isDeparting else { return true }
            guard backend.release(&connection.handle) else { return false }
            table.remove(connection)
            channelConnections[connection.id] = nil
            connection.leave()
            resumed.removeAll { $0 === connection }
            shared.directory.set(connection.id, loop: target.index)
            // What the app keeps of it is read off before the other thread has it.
            let away = connection.app.map { AwayConnection(connection, at: target.index, app: $0) }
            target.mailbox.post(.adopt(ConnectionTransfer(connection)))
            if let away { away.app.departed(away) }
            return true
        }
    }

    func schedule(at milliseconds: UInt64, for connection: Connection) -> TimerID {
        wheel.schedule(at: milliseconds, payload: connection.handle.token.rawValue)
    }

    func cancel(_ timer: TimerID) { _ = wheel.cancel(timer) }

    // MARK: Timers

    private enum TimerOwner {
        static let script: UInt64 = 0x10 << 56
        static let mask: UInt64 = 0xFF << 56
    }

    /// A timer of a script of `app`; `serial` comes back in `App.timerFired`.
    func schedule(script serial: UInt64, of app: App, after milliseconds: UInt64) -> TimerID {
        scriptTimers[serial] = app
        let start = System.monotonicMilliseconds()
        return wheel.schedule(at: start &+ milliseconds, payload: TimerOwner.script | serial)
    }

    func cancel(script serial: UInt64, _ timer: TimerID) {
        scriptTimers[serial] = nil
        cancel(timer)
    }

    private func fireTimers() {
        wheel.advance(to: now, &expired)
        while firedCount < expired.count {
            let payload = expired[firedCount]
            firedCount += 1
            if payload & TimerOwner.mask == TimerOwner.script {
                let serial = payload & ~TimerOwner.mask
                scriptTimers.removeValue(forKey: serial)?.timerFired(serial)
                // A thousand scripts can be due at once, each for its whole burst: sockets come in between.
                if System.monotonicMilliseconds() &- now > Self.scriptMilliseconds { return }
                continue
            }
            let token = IOToken(rawValue: payload)
            switch token.owner {
            case .connection: table[token]?.timerFired()
            case .listener: resumeListener(token)
            case .mailbox: isRunning = false  // The window for draining is over.
            case .signals, nil: break
            }
        }
        expired.removeAll(keepingCapacity: true)
        firedCount = 0
    }

    // MARK: Mailbox

    /// Reads what there is, but no longer than a while: each message can run a script, and sockets come in between.
    private func readMail() {
        while readCount < mail.count {
            let message = mail[readCount]
            readCount += 1
            read(message)
            guard message.entersScripts, System.monotonicMilliseconds() &- now > Self.scriptMilliseconds else {
                continue
            }
            // What was read is let go, though not each time, since the rest has to move for it.
            guard readCount > mail.count / 2 else { return }
            mail.removeFirst(readCount)
            readCount = 0
            return
        }
        mail = []
        readCount = 0
    }

    private func read(_ message: LoopMessage) {
        switch message {
        case .adopt(let transfer):
            adopt(transfer.connection)
        case .connection(let id, let message):
            receive(message, for: id)
        case .app(let transfer, let message):
            transfer.app.receive(message)
        case .channel(let address, let event):
            deliver(event, to: address)
        case .openChannel(let opening):
            openChannel(opening)
        case .joinChannel(let id, let ticket):
            joinChannel(id, ticket)
        case .close(let id, let code, let reason):
            closeRouted(id, code, reason)
        case .dialled(let attempt):
            dialled(attempt)
        case .addApp(let transfer):
            apps[transfer.app.name] = transfer.app
            transfer.app.attach(to: self)
        case .removeApp(let name, let serial):
            guard apps[name]?.serial == serial else { return }
            apps.removeValue(forKey: name)?.shutDown()
        case .revoked(let credential):
            for connection in table.all where connection.credentialID == credential {
                connection.close(.credentialRevoked, reason: "the credential was revoked")
            }
        case .configurationChanged:
            limits = shared.configuration.limits
            trustedProxies = shared.configuration.trustedProxies
            for app in apps.values { app.limitsChanged(limits) }
            for connection in table.all { connection.limitsChanged() }
        case .drain(let milliseconds):
            drain(within: milliseconds)
        case .stop:
            isRunning = false
        }
    }

    private func adopt(_ connection: Connection) {
        table.insert(connection)
        connection.arrived(on: self)
        if let close = closesAhead.removeValue(forKey: connection.id) {
            connection.close(close.code, reason: close.reason)
        }
        if isDraining, !connection.lifecycle.isDead { connection.drain(at: now) }
    }

    private func closeRouted(_ id: ConnectionID, _ code: CloseCode, _ reason: String) {
        if let connection = channelConnections[id] ?? table.all.first(where: { $0.id == id }) {
            return connection.close(code, reason: reason)
        }
        // It may have moved on since; the directory knows, and a connection that is gone needs no closing.
        guard let loop = shared.directory.loop(of: id) else { return }
        if loop == index {
            closesAhead[id] = (code, reason)  // It is on its way here: the close has overtaken it.
        } else {
            shared.loops[loop].mailbox.post(.close(id, code, reason: reason))
        }
    }

    // MARK: Listeners

    func add(_ listener: Listener) throws(StartError) {
        table.insert(listener)
        guard backend.add(&listener.handle) else {
            throw StartError("cannot watch \(listener.settings.url): \(System.describe(errno: errno))")
        }
    }

    private func accepted(_ fileDescriptor: Int32, from address: SocketAddress, on token: IOToken) {
        guard let listener = table.listener(token) else { return System.close(fileDescriptor) }
        let isProxy = listener.settings.proxyVersion != nil || trustedProxies.contains(address)
        let refusal = isDraining ? Refusal.draining : shared.enter(isProxy ? nil : address, limits)
        if refusal != nil {
            guard refusedCount < Self.maximumRefused else { return System.close(fileDescriptor) }
            refusedCount += 1
        }
        let connection = Connection(
            fileDescriptor: fileDescriptor, address: address, listener: listener.settings, loop: self,
            isCounted: refusal == nil, isAddressCounted: refusal == nil && !isProxy)
        table.insert(connection)
        shared.directory.set(connection.id, loop: index)
        guard backend.add(&connection.handle) else { return remove(connection) }
        connection.start(refusal: refusal)
    }

    /// No descriptor is left. With the one in reserve, those that wait are refused, so that they do not hang; then the
    /// listener rests, since asking again at once would spin.
    private func acceptExhausted(_ token: IOToken, errno code: Int32) {
        guard let listener = table.listener(token) else { return }
        shared.logger.warning(
            "cannot accept connections; resting for 100 ms",
            metadata: ["listener": "\(listener.settings.url)", "reason": "\(System.describe(errno: code))"])
        if reserve >= 0 {
            System.close(reserve)
            for _ in 0..<64 {
                guard case .accepted(let fileDescriptor, _) = System.accept(listener.handle.fileDescriptor) else {
                    break
                }
                System.close(fileDescriptor)
            }
            reserve = open("/dev/null", O_RDONLY | O_CLOEXEC)
        }
        backend.pauseReceive(&listener.handle)
        _ = wheel.schedule(at: now + 100, payload: token.rawValue)
    }

    private func resumeListener(_ token: IOToken) {
        guard let listener = table.listener(token) else { return }
        if reserve < 0 { reserve = open("/dev/null", O_RDONLY | O_CLOEXEC) }
        backend.resumeReceive(&listener.handle)
    }

    // MARK: Draining

    private func drain(within milliseconds: UInt64) {
        guard !isDraining else { return }
        isDraining = true  // Listeners stay, for health checks.
        _ = wheel.schedule(at: now + milliseconds, payload: IOToken(.mailbox).rawValue)
        // Spread over half of the window, so that those who come back do not all come at once (DESIGN §10).
        let window = max(1, milliseconds / 2)
        for connection in table.all {
            connection.drain(at: now + UInt64.random(in: 0..<min(window, 5_000)))
        }
    }
}
