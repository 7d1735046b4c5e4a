/// One end of a channel, on the loop of its connection: what the connection may still send, and what goes to it.
///
/// The other end is on the same loop (`peer`), or, where a connection has channels to several loops, on another one
/// (`remote`); it is told the same either way. What it cannot take yet waits in `queue` (multiplexed) or in the
/// connection's own output (clean), never more than its window.
final class ChannelEnd {
    enum Phase: UInt8 {
        /// The server has not answered. Next: open, over.
        case opening
        /// Messages go both ways. Next: over.
        case open
        /// For good: nothing comes from the other end, and nothing goes there.
        case over
    }

    // SAFETY: a connection gives its ends up before it goes (`Connection.leaveChannels`).
    unowned(unsafe) let connection: Connection
    /// `.connection` where the connection is clean: it is the end as a whole.
    let number: ChannelNumber
    /// The server's end, not the client's.
    let isServer: Bool
    private(set) var phase = Phase.opening
    // SAFETY: each end is held by its connection, and an end that goes takes itself from the other (`detach`). No
    // strong reference, so that a frame costs no counting.
    private var other: Unmanaged<ChannelEnd>?
    private(set) var remote: ChannelAddress?
    var record: ChannelRecord? {
        didSet { traffic = record.map { Unmanaged.passUnretained(isServer ? $0.toClient : $0.toServer) } }
    }
    // SAFETY: `record` holds it.
    private var traffic: Unmanaged<ChannelTraffic>?

    // What the connection sends.

    /// Bytes that it may still send.
    private(set) var credit = 0
    /// A message of it has begun: whether it is a text.
    private(set) var openMessage: Bool?
    /// What has come of a text.
    private var validator = UTF8Validator()
    /// It has said that no more comes.
    private(set) var hasEnded = false
    /// Of a clean connection: what was received and has no credit yet.
    var stalled: StalledPiece?
    /// Of a server's end that is opening: what its ticket must tell.
    var ticketSecret: [UInt8] = []
    /// What has been mailed to another loop, with what each message costs there, and was not read yet.
    private var mailedBytes = 0
    private var waitsForMail = false

    // What goes to the connection.

    var window = ReceiveWindow()
    /// Of what came from another loop: read, and not told.
    private var readBytes = 0
    /// A message to it has begun.
    private(set) var isInsideMessage = false
    /// It was told, or will be, that no more comes.
    private(set) var isEnding = false
    /// Whole frames that wait for their turn (multiplexed).
    var queue = OutboundBuffer()
    /// Behind this one in a list of turns, while `isInTurn`.
    var next: ChannelEnd?
    var isInTurn = false
    private var isHoldingBack = false
    /// Of a clean connection: payload that it has been given and that was not granted anew.
    private var unreturned = 0
    /// What is held for this end at most: `channelCreditBytes` as it was when the channel began. A window that shrank
    /// would not be grown by half any more.
    let limit: Int

    init(_ connection: Connection, _ number: ChannelNumber, isServer: Bool) {
        limit = connection.loop.limits.channelCreditBytes
        self.connection = connection
        self.number = number
        self.isServer = isServer
    }

    var peer: ChannelEnd? { other?.takeUnretainedValue() }
    var isClean: Bool { number == .connection }
    var address: ChannelAddress {
        ChannelAddress(loop: connection.loop.index, connection: connection.id, number: number)
    }
    private var loop: EventLoop { connection.loop }

    // MARK: Life

    /// The two ends are found: whichever loop the other one is on. `credit` is what the connection may send.
    func open(to peer: ChannelEnd?, _ remote: ChannelAddress?, credit: Int, _ record: ChannelRecord?) {
        phase = .open
        self.credit = credit
        self.record = record
        meet(peer, remote)
    }

    func meet(_ peer: ChannelEnd?, _ remote: ChannelAddress?) {
        other = peer.map { Unmanaged.passUnretained($0) }
        self.remote = peer == nil ? remote : nil
    }

    /// The server's end, while it waits for the answer.
    func promise(_ credit: Int) { self.credit = credit }

    /// Nothing goes to the other end, nor comes from it, any more. What waits in `queue` still leaves.
    func detach() {
        guard phase != .over else { return }
        dissolve()
        stalled = nil
        stopWaitingForMail()
        connection.detached(self)
    }

    /// Whether a ticket's secret is that of this open.
    func isTicket(_ secret: [UInt8]) -> Bool {
        ticketSecret.withUnsafeBytes { own in secret.withUnsafeBytes { Digest.constantTimeEqual(own, $0) } }
    }

    /// The connection goes on without being an end of a channel; nobody is told.
    func dissolve() {
        phase = .over
        if let peer, peer.peer === self { peer.other = nil }
        other = nil
        remote = nil
    }

    // MARK: To the other end

    /// A piece of a message that the connection has sent, masked with `key` (0: plain, as texts have to be). Without
    /// credit for it the channel is over.
    @inline(__always)
    func send(_ payload: UnsafeRawBufferPointer, key: UInt32, isText: Bool, more: Bool) {
        guard payload.count <= credit else { return fail(.limit, "the credit of the channel was exceeded") }
        credit &-= payload.count
        openMessage = more ? isText : nil
        // A clean connection's texts have been checked as it was read.
        if isText, !isClean, !accept(payload, more: more) {
            return fail(.invalidPayload, "a text is not valid UTF-8")
        }
        traffic?._withUnsafeGuaranteedRef { $0.count(payload.count, messages: more ? 0 : 1) }
        if let other {
            other._withUnsafeGuaranteedRef { $0.deliver(payload, key: key, isText: isText, more: more) }
        } else if let remote {
            mail(payload, key: key, isText: isText, more: more, to: remote)
        }
    }

    private func accept(_ text: UnsafeRawBufferPointer, more: Bool) -> Bool {
        defer { if !more { validator = UTF8Validator() } }
        return validator.accept(text) && (more || validator.isComplete)
    }

    /// Sends to another loop, which may be slower: the connection is read no further when too much is on its way.
    private func mail(
        _ payload: UnsafeRawBufferPointer, key: UInt32, isText: Bool, more: Bool, to remote: ChannelAddress
    ) {
        var bytes: [UInt8] = []
        if !payload.isEmpty {
            bytes = [UInt8](unsafeUninitializedCapacity: payload.count) { room, count in
                count = payload.count
                Masking.copy(
                    payload, to: UnsafeMutableRawBufferPointer(start: room.baseAddress, count: count), key: key)
            }
        }
        loop.tell(remote, .data(bytes, isText: isText, more: more))
        mailedBytes += payload.count + Self.mailOverheadBytes
        guard !waitsForMail, mailedBytes > Self.mostMailedBytes else { return }
        waitsForMail = true
        connection.beginWaiting()
    }
    private static let mostMailedBytes = 1 << 20
    private static let mailOverheadBytes = 128

    /// Mail that came from another loop is told there, now and then.
    private func readMail(_ bytes: [UInt8], isText: Bool, more: Bool) {
        bytes.withUnsafeBytes { deliver($0, key: 0, isText: isText, more: more) }
        readBytes += bytes.count + Self.mailOverheadBytes
        guard readBytes > Self.mostMailedBytes / 8 else { return }
        tell(.read(bytes: readBytes))
        readBytes = 0
    }

    private func wasRead(_ bytes: Int) {
        mailedBytes -= bytes
        if mailedBytes <= Self.mostMailedBytes / 2 { stopWaitingForMail() }
    }

    private func stopWaitingForMail() {
        guard waitsForMail else { return }
        waitsForMail = false
        connection.stopWaiting()
    }

    /// The common case: small messages in a row go to the other end in one pass, as long as nothing is in their way.
    /// They are read from `bytes`, from `offset` on, as `connection` has received them. Whatever is left is for `send`.
    func moveSmallMessages(_ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int) {
        guard phase == .open, !hasEnded, openMessage == nil, let other else { return }
        other._withUnsafeGuaranteedRef { target in
            let output = target.connection
            let pool = output.loop.pool
            let wanted = min(target.directRoom, 2 * (bytes.count - offset))
            guard wanted >= Self.leastRoom else { return }
            let room = output.outbound.reserve(wanted, atLeast: Self.leastRoom, from: pool)
            var written = 0
            let moved: WebSocketReader.Moved
            // One loop for each pair of kinds, without a question per message.
            switch (isClean, target.isClean) {
            case _ where connection.isDialled || output.isDialled:
                moved = moveOverLink(bytes, &offset, to: target, into: room, &written)
            case (true, false):
                moved = connection.reader.moveSmallMessages(
                    bytes, &offset, from: nil, into: room, &written, as: target.number.rawValue, credit: credit)
            case (false, true):
                moved = connection.reader.moveSmallMessages(
                    bytes, &offset, from: number.rawValue, into: room, &written, as: nil, credit: credit)
            case (false, false):
                moved = connection.reader.moveSmallMessages(
                    bytes, &offset, from: number.rawValue, into: room, &written, as: target.number.rawValue,
                    credit: credit)
            case (true, true):
                return  // A pipe.
            }
            output.outbound.commit(written)
            guard moved.messages > 0 else {
                if output.outbound.isEmpty { output.outbound.removeAll(to: pool) }
                return
            }
            credit &-= moved.payloadBytes
            traffic?._withUnsafeGuaranteedRef { $0.count(moved.payloadBytes, messages: moved.messages) }
            output.setDirty()
            target.took(moved.payloadBytes)
        }
    }

    /// A new chunk is not begun for less.
    private static let leastRoom = 256

    /// How much can be written to the connection's output at this moment, with nothing before it.
    private var directRoom: Int {
        guard connection.lifecycle.isOpen else { return 0 }
        guard !isClean else { return isInsideMessage ? 0 : ChunkSize.large.bytes }
        guard let channels = connection.channels, !channels.hasBacklog else { return 0 }
        return channels.burst - connection.outbound.byteCount
    }

    /// The connection's output has been given so much of whole messages.
    private func took(_ payloadBytes: Int) {
        window.take(payloadBytes)
        if isClean {
            unreturned &+= payloadBytes
            if connection.queuedBytes > mostWaiting { overflow() }
        } else if window.held > 0 {
            passOnCredit()
        }
    }

    /// The connection says that no more comes.
    func end() {
        hasEnded = true
        tell(.end)
        if isEnding { detach() }
    }

    /// The connection wants no more of this channel, or may not have it.
    func close(_ code: CloseCode, _ reason: String) {
        tellEnd(code, reason)
        detach()
    }

    /// The connection broke a rule of channels: both ends are told, and the connection lives on.
    func fail(_ code: CloseCode, _ reason: String) {
        tellEnd(code, reason)
        finish(code, reason)
    }

    /// The other end hears that the channel is over; a client that still waits for its server, that it will not be.
    private func tellEnd(_ code: CloseCode, _ reason: String) {
        let isAnswer = isServer && phase == .opening
        tell(isAnswer ? .reject(code: ChannelReject.badGateway, reason: reason) : .close(code, reason: reason))
    }

    func tell(_ event: ChannelEvent) {
        if let peer { peer.receive(event) } else if let remote { loop.tell(remote, event) }
    }

    // MARK: From the other end

    func receive(_ event: ChannelEvent) {
        guard phase != .over else { return }
        switch event {
        case .asked(let address):
            meet(nil, address)
        case .accept(let credit, let address, let record):
            guard phase == .opening else { return }
            accepted(credit: credit, from: address, record)
        case .reject(let code, let reason):
            guard phase == .opening else { return }
            detach()
            connection.channelRejected(self, code: code, reason: reason)
        case .data(let bytes, let isText, let more):
            readMail(bytes, isText: isText, more: more)
        case .read(let bytes):
            wasRead(bytes)
        case .credit(let bytes):
            credit += bytes
            if isClean {
                connection.resumeStalled(self)
            } else {
                connection.queueChannelFrame(.credit, number, ChannelFrame.payload(credit: bytes))
            }
        case .end:
            isEnding = true
            if isClean {
                // A WebSocket cannot be closed by half. What was delivered leaves before the close frame.
                tell(.close(.normal, reason: ""))
                detach()
                return connection.close(.normal, reason: "")
            }
            sendInOrder(.end)
            if hasEnded { detach() }
        case .close(let code, let reason):
            finish(code, reason)
        }
    }

    private func accepted(credit: Int, from address: ChannelAddress, _ record: ChannelRecord) {
        // The server may have answered with a connection of its own, so where the other end is may be news.
        let peer = address.loop == loop.index ? loop.channelEnd(address) : nil
        open(to: peer, address, credit: credit, record)
        connection.channelAccepted(self)
        passOnCredit()
    }

    /// The channel is over; its connection is told, behind what it has been sent before.
    private func finish(_ code: CloseCode, _ reason: String) {
        if isClean {
            detach()
            return connection.closeClean(code, reason)
        }
        sendInOrder(.close, ChannelFrame.payload(code: code.rawValue, reason: reason))
        detach()
    }

    /// What goes to the connection. Bounded by `window`; but the heads of frames cost no credit, and empty messages
    /// cost nothing at all.
    @inline(__always)
    func deliver(_ payload: UnsafeRawBufferPointer, key: UInt32, isText: Bool, more: Bool) {
        window.take(payload.count)
        if isClean {
            connection.queueClean(payload, key: key, isText: isText, isFirst: !isInsideMessage, isLast: !more)
            isInsideMessage = more
            unreturned &+= payload.count
            if connection.queuedBytes > mostWaiting { return overflow() }
        } else {
            connection.queueData(self, payload, key: key, isText: isText, more: more)
            if window.held > 0 { passOnCredit() }
            if !queue.isEmpty, queue.byteCount > mostWaiting { return overflow() }
        }
    }

    /// A message of one byte makes a frame of eight: with a full window of these so much can wait. Only empty messages
    /// make more.
    private var mostWaiting: Int { 9 * limit + (64 << 10) }

    /// Heads of frames make the most of what waits: who can be held back for it is, before it becomes too much.
    @inline(__always)
    var isCrowded: Bool { queue.byteCount > 2 * limit }

    /// The other end, a clean connection, is read no further until less waits here.
    func holdBack(_ connection: Connection) {
        guard !isHoldingBack else { return }
        isHoldingBack = true
        connection.deadlines.stalledSince = connection.loop.now
        connection.beginWaiting()
        connection.updateTimer()
    }

    /// Some of what waited is on its way: there is room for more.
    func hadTurn() {
        if window.held > 0 { passOnCredit() }
        guard isHoldingBack, let peer else { return }
        isHoldingBack = queue.byteCount > limit
        peer.connection.deadlines.stalledSince = isHoldingBack ? loop.now : 0  // It reads, if slowly.
        if !isHoldingBack { peer.connection.stopWaiting() }
    }

    private func overflow() {
        let reason = "too many empty messages are waiting in the channel"
        tell(.close(.limit, reason: reason))
        finish(.limit, reason)
    }

    private func sendInOrder(_ type: ChannelFrameType, _ payload: [UInt8] = []) {
        guard !queue.isEmpty else { return connection.queueChannelFrame(type, number, payload) }
        connection.queueBehindData(self, ChannelFrame.encode(type, connection.wireNumber(number), payload))
    }

    // MARK: Credit for the other end

    /// The connection grants the other end more. Before the answer nobody can be told: it is held until then.
    func grant(_ bytes: Int) -> Bool {
        guard window.grant(bytes) else { return false }
        if phase == .open { passOnCredit() }
        return true
    }

    /// Tells the other end what may be told by now.
    func passOnCredit() {
        let bytes = window.passOn(queued: queue.byteCount, limit: limit)
        if bytes > 0 { tell(.credit(bytes)) }
    }

    /// A clean connection has taken some of what it was given: that much may come anew.
    func returnCredit(queued: Int) {
        let taken = unreturned - min(unreturned, queued)
        guard taken >= max(1, limit / 2) else { return }
        unreturned -= taken
        _ = grant(taken)
    }
}
