/// The client's end of a channel that a script has dialled (`relay.dial`). It lives in the app, on its home loop, and
/// reaches the server's end by mail, on whichever loop that is.
///
/// Both directions are bounded. What the script sends waits here for credit, as much as a connection's output may be.
/// What the server sends waits for the script's callbacks, which are called one at a time, in order: while one sleeps,
/// or has to wait for a receiver that is full, no credit is given, and nothing more comes.
final class ScriptChannel {
    private enum Phase {
        /// Messages may be sent, and come once the server has accepted. Next: leaving, over.
        case open
        /// The script has closed; what it had sent before goes first, to a server that is known by now. Next: over.
        case leaving(CloseCode, reason: String)
        /// Nothing goes to the server or comes from it; the callbacks still hear of what had come. For good.
        case over
    }

    let id = ConnectionID.next()
    // SAFETY: an app gives its channels up when it is shut down.
    private unowned let app: App
    private let callbacks: DialCallbacks
    private var record: ChannelRecord?
    private var phase = Phase.open
    private var isAccepted = false
    /// Where the server's end is, as soon as that is known.
    private var remote: ChannelAddress?

    // To the server.

    private var queue: [Outgoing] = []
    /// Of `queue`: those before have left.
    private var queueStart = 0
    private var queuedBytes = 0
    private var credit = 0
    private var mailedBytes = 0
    /// Who fills the queue, and waits until it has drained.
    private var waiters: Set<ConnectionID> = []
    private var hasProgressed = true

    // To the script.

    private var window = ReceiveWindow()
    private let limit: Int
    /// Taken, and not granted anew.
    private var unreturned = 0
    /// In this order: the open callback, pieces of messages, the close callback, and the end of this object.
    private var owesOpen = false
    private var pieces = PieceQueue()
    private var ending: (code: UInt16, reason: String)?
    private var isToldEnding = false
    private var message: [UInt8] = []
    /// Of the mail that has been read: not acknowledged yet.
    private var readBytes = 0
    private var waitsFor = 0
    private var isCalling = false
    private var isScheduled = false

    private struct Outgoing {
        let bytes: [UInt8]
        let isText: Bool
        var sent = 0
        var cost: Int { bytes.count + ScriptChannel.overheadBytes }
    }

    /// What a message costs beside its bytes, here and in the mail.
    private static let overheadBytes = 128
    /// So much may be in the mail and not read on the other loop.
    private static let mostMailedBytes = 1 << 20
    private static let pieceBytes = 64 << 10

    init(_ app: App, _ callbacks: DialCallbacks) {
        self.app = app
        self.callbacks = callbacks
        limit = app.loop.limits.channelCreditBytes
        _ = window.grant(limit)
    }

    var address: ChannelAddress { ChannelAddress(loop: app.loop.index, connection: id, number: .script) }

    /// Answers what the server may send at first.
    func begin(_ record: ChannelRecord) -> Int {
        self.record = record
        return window.passOn(queued: 0, limit: limit)
    }

    // MARK: What the script wants

    /// Messages may be sent, also before the server has answered.
    var isOpen: Bool { if case .open = phase { true } else { false } }

    /// As `App.send` does for a connection.
    func send(_ bytes: UnsafeRawBufferPointer, isText: Bool) -> ScriptSendResult {
        let limits = app.loop.limits
        let cost = bytes.count + Self.overheadBytes
        guard isOpen, queuedBytes + cost <= limits.outboundHighBytes + limits.outputBytesPerCall else {
            return .dropped
        }
        queue.append(Outgoing(bytes: Array(bytes), isText: isText))
        queuedBytes += cost
        flush()
        guard queuedBytes > limits.outboundHighBytes else { return .queued }
        if let caller = app.caller {
            if caller.isOpen, waiters.insert(caller.id).inserted { caller.beginWaiting() }
        } else if let source = app.callingChannel, waiters.insert(source.id).inserted {
            source.waitsFor += 1
        }
        return .backpressure
    }

    /// False where it is closed already. What was not handed on yet is dropped; the close callback runs later.
    func close(_ code: UInt16, _ reason: String) -> Bool {
        guard isOpen else { return false }
        phase = .leaving(CloseCode(rawValue: code), reason: reason)
        pieces = PieceQueue()
        flush()
        return true
    }

    /// A callback fills `target`, which has more queued than it should: the next one waits until that has drained.
    func wait(for target: Member) {
        if target.addWaiter(id) { waitsFor += 1 }
    }

    func stopWaiting() {
        waitsFor -= 1
        schedule()
    }

    // MARK: To the server

    /// Mails what may be mailed, and says goodbye behind the last of it.
    private func flush() {
        if isAccepted { mail() }
        if queuedBytes <= app.loop.limits.outboundLowBytes { releaseWaiters() }
        if case .leaving(let code, let reason) = phase, queue.isEmpty, remote != nil { fail(code, reason) }
        if isAccepted, !queue.isEmpty { app.watchScriptChannels() }
    }

    private func mail() {
        while queueStart < queue.count, mailedBytes <= Self.mostMailedBytes {
            let next = queue[queueStart]
            let left = next.bytes.count - next.sent
            let count = min(left, credit, Self.pieceBytes)
            guard count > 0 || left == 0 else { break }
            let isLast = count == left
            tell(.data(Array(next.bytes[next.sent..<next.sent + count]), isText: next.isText, more: !isLast))
            credit -= count
            mailedBytes += count + Self.overheadBytes
            record?.toServer.count(count, messages: isLast ? 1 : 0)
            hasProgressed = true
            if isLast {
                queueStart += 1
                queuedBytes -= next.cost
            } else {
                queue[queueStart].sent += count
            }
        }
        // Not each time: the rest has to move for it.
        guard queueStart > queue.count / 2 else { return }
        queue.removeFirst(queueStart)
        queueStart = 0
    }

    private func releaseWaiters() {
        let released = waiters
        waiters = []
        for id in released { app.stopWaiting(id) }
    }

    private func tell(_ event: ChannelEvent) {
        if let remote { app.loop.tell(remote, event) }
    }

    /// The server has accepted, something waits for it, and nothing has left since this was asked the last time.
    func isStalled() -> Bool {
        defer { hasProgressed = false }
        return hasBacklog && !hasProgressed
    }

    var hasBacklog: Bool { isAccepted && !queue.isEmpty }

    /// Ends the channel; both sides are told.
    func fail(_ code: CloseCode, _ reason: String) {
        tell(.close(code, reason: reason))
        finish(code.rawValue, reason)
    }

    /// Nothing goes to the server any more. The script is told, behind what has come before.
    private func finish(_ code: UInt16, _ reason: String) {
        phase = .over
        ending = (code, reason)
        app.loop.scriptChannels[id] = nil
        remote = nil
        record = nil
        queue = []
        queueStart = 0
        queuedBytes = 0
        releaseWaiters()
        schedule()
    }

    /// The app is removed: no callback runs any more.
    func abandon() {
        tell(.close(.goingAway, reason: "the app was removed"))
        app.loop.scriptChannels[id] = nil
    }

    // MARK: From the server

    /// By mail, so never from within a script.
    func receive(_ event: ChannelEvent) {
        switch event {
        case .asked(let address):
            remote = address
            flush()
        case .accept(let credit, let address, _):
            // The server may have answered with a connection of its own.
            remote = address
            self.credit = credit
            isAccepted = true
            owesOpen = isOpen
            flush()
        case .credit(let bytes):
            credit += bytes
            flush()
        case .read(let bytes):
            mailedBytes -= bytes
            flush()
        case .data(let bytes, let isText, let more):
            received(bytes, isText: isText, more: more)
        case .end:
            // A script's end cannot be closed by half, as a clean connection cannot.
            tell(.close(.normal, reason: ""))
            finish(CloseCode.normal.rawValue, "")
        case .reject(let code, let reason):
            finish(code, reason)
        case .close(let code, let reason):
            finish(code.rawValue, reason)
        }
        if !isScheduled { next() }
    }

    private func received(_ bytes: [UInt8], isText: Bool, more: Bool) {
        readBytes += bytes.count + Self.overheadBytes
        if readBytes > Self.mostMailedBytes / 8 {
            tell(.read(bytes: readBytes))
            readBytes = 0
        }
        window.take(bytes.count)
        guard isOpen else { return }
        pieces.append(bytes, isText: isText, more: more)
        // As in `ChannelEnd`: a full window of messages of one byte fits, only empty ones make more.
        guard pieces.byteCount > 9 * limit + (64 << 10) else { return }
        fail(.limit, "too many empty messages are waiting for a script")
    }

    // MARK: To the script

    private var isBusy: Bool { isCalling || waitsFor > 0 }
    private var hasNext: Bool { owesOpen || !pieces.isEmpty || ending != nil || isToldEnding }

    /// Goes on in the next turn: others come first, and perhaps a script runs at this moment.
    private func schedule() {
        guard !isScheduled, !isBusy, hasNext else { return }
        isScheduled = true
        app.loop.mailbox.post(.app(AppTransfer(app), .channel(id)))
    }

    /// Hands on what comes first, and sees to it that the rest follows.
    func next() {
        isScheduled = false
        guard !isBusy else { return }
        if owesOpen {
            owesOpen = false
            call(callbacks.open, "dial open", .open(connection: id))
        } else if let piece = pieces.removeFirst() {
            take(piece)
        } else if let (code, reason) = ending {
            ending = nil
            isToldEnding = true
            call(callbacks.close, "dial close", .close(connection: id, code: code, reason: reason))
        } else if isToldEnding {
            return app.forget(self, callbacks)
        }
        schedule()
    }

    /// A piece of a message: the server may send as much again. The last one makes a message for the script.
    private func take(_ piece: PieceQueue.Piece) {
        guard message.count + piece.bytes.count <= app.loop.limits.messageBytes else {
            return spoilt(.messageTooBig, "a message for a script is longer than messageBytes")
        }
        returnCredit(piece.bytes.count)
        message.append(contentsOf: piece.bytes)
        guard !piece.more else { return }
        let whole = message
        message = []
        whole.withUnsafeBytes { whole in
            call(callbacks.message, "dial message", .message(connection: id, bytes: whole, isText: piece.isText))
        }
    }

    /// Half of the window at a time.
    private func returnCredit(_ bytes: Int) {
        unreturned += bytes
        guard unreturned >= max(1, limit / 2) else { return }
        _ = window.grant(unreturned)
        unreturned = 0
        let granted = window.passOn(queued: 0, limit: limit)
        if granted > 0 { tell(.credit(granted)) }
    }

    /// What the server has sent cannot be handed on, and nothing behind it will be.
    private func spoilt(_ code: CloseCode, _ reason: String) {
        message = []
        pieces = PieceQueue()
        if ending == nil { fail(code, reason) }
    }

    private func call(_ function: FunctionReference?, _ name: StaticString, _ arguments: CallArguments) {
        guard let function else { return }
        isCalling = true
        app.call(self, function, name, arguments)
    }

    /// A callback has returned, or failed.
    func callEnded() {
        isCalling = false
        schedule()
    }
}

/// Pieces of messages in a row, each behind a head of five bytes: what it is, and how long. Millions of small ones cost
/// no more than their bytes and heads.
private struct PieceQueue {
    struct Piece {
        let bytes: ArraySlice<UInt8>
        let isText: Bool
        let more: Bool
    }

    private var storage: [UInt8] = []
    private var start = 0

    var byteCount: Int { storage.count - start }
    var isEmpty: Bool { byteCount == 0 }

    mutating func append(_ bytes: [UInt8], isText: Bool, more: Bool) {
        storage.append((isText ? 1 : 0) | (more ? 2 : 0))
        withUnsafeBytes(of: UInt32(bytes.count)) { storage.append(contentsOf: $0) }
        storage.append(contentsOf: bytes)
    }

    mutating func removeFirst() -> Piece? {
        guard !isEmpty else { return nil }
        if start > storage.count / 2 {
            storage.removeFirst(start)
            start = 0
        }
        let head = storage[start]
        let count = storage.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: start + 1, as: UInt32.self) }
        let end = start + 5 + Int(count)
        let piece = Piece(bytes: storage[(start + 5)..<end], isText: head & 1 != 0, more: head & 2 != 0)
        if end == storage.count {
            storage = []
            start = 0
        } else {
            start = end
        }
        return piece
    }
}
