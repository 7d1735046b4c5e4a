import Glibc
import Relay

/// A channel whose end is a WebSocket to a local service: what is a message on one side is one on the other, text or
/// binary, and a close keeps its code. The channel is accepted once the service has answered the handshake.
final class WebSocketEnd: TunnelEnd {
    private enum Phase {
        /// Next: securing, upgrading, over.
        case connecting
        /// TLS shakes hands. Next: upgrading, over.
        case securing
        /// The request is sent. Next: open, over.
        case upgrading
        /// Next: closing, over.
        case open
        /// Our close frame is sent or waits behind what comes before it. Next: over.
        case closing
        case over
    }

    private let target: Target
    private let service: WebSocketService
    private var phase = Phase.connecting
    private var otherAddresses: ArraySlice<ResolvedAddress>
    private var descriptor: Int32 = -1
    private var session: TLSSession?
    /// With TLS: where ciphertext is received, lent to the session from one read to the next.
    private var ciphertext = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    private let key = Base64.encode(SecureRandom.bytes(16))
    private var reader = WebSocketReader(role: .client)
    /// The answer's head as far as it has come; then what came behind it.
    private var unread: [UInt8] = []
    /// Frames for the service; with TLS they are encrypted into `records`.
    private var output = OutboundBuffer()
    private var records = OutboundBuffer()
    /// Payload that came out of the channel and was not granted anew.
    private var unreturned = 0
    private var isInsideMessage = false
    private var hasReceivedClose = false
    private var mayRead = true
    private var mayWrite = true
    private var endsAt: UInt64?

    private static let handshakeMilliseconds: UInt64 = 10_000
    private static let closingMilliseconds: UInt64 = 5_000
    private static let ciphertextBytes = 32 << 10
    private static let maximumHeadBytes = 16 << 10
    /// Pongs for a service that pings and does not read are left out beyond this (RFC 6455 §5.5.3 allows it).
    private static let mostPongBytes = 64 << 10

    init(
        _ state: ChannelState, number: ChannelNumber, link: Link, target: Target, service: WebSocketService,
        label: String, owner: any TunnelEndOwner, loop: ClientLoop
    ) {
        self.target = target
        self.service = service
        otherAddresses = target.addresses[...]
        super.init(state, number: number, link: link, label: label, owner: owner, loop: loop)
    }

    deinit { ciphertext.deallocate() }

    override func ready(_ readiness: Readiness) {
        if readiness.mayWrite { mayWrite = true }
        if readiness.mayRead { mayRead = true }
        switch phase {
        case .connecting: connected()
        case .securing: secure()
        case .upgrading: readHead()
        case .open: enqueue()
        case .closing: discard()
        case .over: return
        }
        flush()
    }

    // MARK: Connecting

    override func begin() {
        endsAt = loop.now + Self.handshakeMilliseconds
        loop.time(self)
        connect("it has no address")
    }

    private func connect(_ lastFailure: String) {
        guard let address = otherAddresses.popFirst() else {
            target.refresh(loop.inbox)
            return refuse(502, lastFailure)
        }
        switch address.connect() {
        case .failed(let code): connect(System.describe(errno: code))
        case .started(let descriptor, let isPending):
            self.descriptor = descriptor
            // Not before it is known how it went.
            (mayRead, mayWrite) = (false, false)
            _ = loop.watch(descriptor, for: self, writing: true)
            if !isPending { connected() }
        }
    }

    private func connected() {
        let code = ResolvedAddress.outcome(descriptor)
        guard code == 0 else {
            Glibc.close(descriptor)
            descriptor = -1
            return connect(System.describe(errno: code))
        }
        (mayRead, mayWrite) = (true, true)
        System.setOption(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
        guard let context = service.context else { return upgrade() }
        do { session = try TLSSession(client: context, serverName: service.url.host) } catch {
            return refuse(502, "\(error)")
        }
        ciphertext = .allocate(byteCount: Self.ciphertextBytes, alignment: 64)
        phase = .securing
        secure()
    }

    private func secure() {
        while phase == .securing, let session {
            let step = session.handshake(output: &records, pool: loop.pool)
            flush()
            switch step {
            case .done: return upgrade()
            case .failed(let failure): return refuse(502, "\(failure)")
            case .needsInput:
                switch receive(into: ciphertext) {
                case .bytes(let count): session.receive(UnsafeRawBufferPointer(rebasing: ciphertext[..<count]))
                case .wouldBlock: return
                case .over(let reason): return refuse(502, reason)
                }
            }
        }
    }

    private func upgrade() {
        phase = .upgrading
        let request = ClientHandshake.encodeRequest(
            target: service.url.target, host: service.url.hostField, key: key)
        request.withUnsafeBytes { output.append($0, from: loop.pool) }
        flush()
        readHead()
    }

    private func readHead() {
        while phase == .upgrading {
            switch unread.withUnsafeBytes({ ResponseHeadParser.parse($0, maximumBytes: Self.maximumHeadBytes) }) {
            case .head(let head, let length):
                guard head.status == 101 else { return refuse(502, "it answered with HTTP status \(head.status)") }
                guard head.isUpgrade(accept: Digest.webSocketAccept(key: Array(key.utf8))),
                    head.values(of: "sec-websocket-protocol").isEmpty
                else { return refuse(502, "its answer to the WebSocket handshake is wrong") }
                unread.removeFirst(length)
                return begun()
            case .refused(let reason): return refuse(502, "\(reason)")
            case .incomplete: break
            }
            switch read(limit: Self.maximumHeadBytes) {
            case .bytes(let bytes): unread.append(contentsOf: bytes)
            case .wouldBlock: return
            case .over(let reason): return refuse(502, reason)
            }
        }
    }

    private func begun() {
        phase = .open
        stopTiming()
        accept()
        owner.opened(self)
        enqueue()
    }

    /// There will be no WebSocket: the client is told an HTTP status.
    private func refuse(_ status: UInt16, _ reason: String) {
        reject(ChannelClose(status, "\(target): \(reason)"))
        closeLocal("\(target): \(reason)")
    }

    // MARK: Bytes

    private enum Input {
        case bytes(UnsafeMutableRawBufferPointer)
        case wouldBlock
        case over(String)
    }

    private enum Received {
        case bytes(Int)
        case wouldBlock
        case over(String)
    }

    private func receive(into room: UnsafeMutableRawBufferPointer) -> Received {
        guard mayRead else { return .wouldBlock }
        switch System.receive(descriptor, into: room) {
        case .bytes(let count): return .bytes(count)
        case .wouldBlock:
            mayRead = false
            return .wouldBlock
        case .endOfStream: return .over("it ended the connection without a close frame")
        case .failed(let code): return .over(System.describe(errno: code))
        }
    }

    /// At most `limit` bytes of what the service sends, decrypted.
    private func read(limit: Int) -> Input {
        let room = UnsafeMutableRawBufferPointer(
            rebasing: loop.plaintextBuffer[..<min(limit, loop.plaintextBuffer.count)])
        guard let session else {
            switch receive(into: room) {
            case .bytes(let count): return .bytes(UnsafeMutableRawBufferPointer(rebasing: room[..<count]))
            case .wouldBlock: return .wouldBlock
            case .over(let reason): return .over(reason)
            }
        }
        while true {
            switch session.read(into: room, output: &records, pool: loop.pool) {
            case .bytes(let count): return .bytes(UnsafeMutableRawBufferPointer(rebasing: room[..<count]))
            case .closed: return .over("it ended the connection without a close frame")
            case .failed(let failure): return .over("\(failure)")
            case .needsInput: break
            }
            switch receive(into: ciphertext) {
            case .bytes(let count): session.receive(UnsafeRawBufferPointer(rebasing: ciphertext[..<count]))
            case .wouldBlock: return .wouldBlock
            case .over(let reason): return .over(reason)
            }
        }
    }

    /// Sends what waits, as far as the socket takes it, and grants the client as much anew.
    private func flush() {
        while phase != .over, mayWrite, !output.isEmpty || !records.isEmpty {
            if let session, records.isEmpty {
                guard case .written(let count) = session.write(output.first, output: &records, pool: loop.pool) else {
                    return broke("the TLS session failed")
                }
                output.consume(count, to: loop.pool)
            }
            let result =
                session == nil ? System.send(descriptor, output) : System.send(descriptor, records)
            switch result {
            case .bytes(let count):
                if session == nil {
                    output.consume(count, to: loop.pool)
                } else {
                    records.consume(count, to: loop.pool)
                }
            case .wouldBlock: mayWrite = false
            case .failed(let code): return broke(System.describe(errno: code))
            }
        }
        let waiting = output.byteCount + records.byteCount
        let taken = unreturned - min(unreturned, waiting)
        unreturned -= taken
        if taken > 0 { consume(taken) }
        if phase == .closing, hasReceivedClose, waiting == 0 { closeLocal(nil) }
    }

    /// The way to the service is gone.
    private func broke(_ reason: String) {
        switch phase {
        case .connecting, .securing, .upgrading: refuse(502, reason)
        case .open:
            close(ChannelClose(CloseCode.badGateway.rawValue, reason))
            closeLocal(reason)
        case .closing: closeLocal(hasReceivedClose ? nil : reason)
        case .over: break
        }
    }

    // MARK: Into the channel

    override func takeTurn(limit: Int) -> Bool {
        let most = min(limit, state.sendable)
        guard phase == .open, most > 0 else { return false }
        if !unread.isEmpty {
            // Behind the handshake's answer.
            var first = Array(unread.prefix(most))
            unread.removeFirst(first.count)
            first.withUnsafeMutableBytes { take($0) }
        } else {
            // A frame has no more payload than bytes, so what is read has credit.
            switch read(limit: most) {
            case .bytes(let bytes): take(bytes)
            case .wouldBlock: break
            case .over(let reason): broke(reason)
            }
        }
        flush()
        return phase == .open && state.sendable > 0 && (mayRead || !unread.isEmpty)
    }

    private func take(_ bytes: UnsafeMutableRawBufferPointer) {
        var offset = 0
        while offset < bytes.count, phase == .open {
            switch reader.next(bytes, &offset) {
            case .needsInput: return
            case .data(let isText, let range, _, let isLast):
                state.sent(range.count)
                sentBytes += range.count
                let piece = UnsafeRawBufferPointer(rebasing: bytes[range])
                link?.send(.data(isText: isText, more: !isLast), number, piece)
            case .ping(let payload):
                if output.byteCount < Self.mostPongBytes { queue(.pong, payload) }
            case .pong: break
            case .close(let code, let reason):
                hasReceivedClose = true
                let reason = String(decoding: reason, as: UTF8.self)
                close(ChannelClose((code ?? .noStatus).rawValue, reason))
                sayClose(code ?? .noStatus, "")
            case .violation(let violation):
                close(ChannelClose(CloseCode.badGateway.rawValue, "\(target): \(violation.reason)"))
                hasReceivedClose = true  // Nothing that follows is understood.
                sayClose(violation.code, "\(violation.reason)")
            }
        }
    }

    // MARK: Out of the channel

    override func deliver(_ piece: UnsafeRawBufferPointer, isText: Bool, endsMessage: Bool) {
        guard phase == .open else { return }
        queue(isInsideMessage ? .continuation : isText ? .text : .binary, piece, isFinal: endsMessage)
        isInsideMessage = !endsMessage
        unreturned += piece.count
    }

    override func deliveryEnds() { flush() }

    private func queue(_ opcode: Opcode, _ payload: UnsafeRawBufferPointer, isFinal: Bool = true) {
        let maskingKey = loop.maskingKeys.take()
        let room = output.reserve(FrameHeader.maximumLength, atLeast: FrameHeader.maximumLength, from: loop.pool)
        // SAFETY: `reserve` gives at least the length of the longest head.
        output.commit(
            FrameEncoder.writeHeader(
                isFinal: isFinal, opcode: opcode, payloadLength: payload.count, maskingKey: maskingKey,
                into: room.baseAddress!))
        output.append(payload, key: maskingKey, from: loop.pool)
    }

    /// A WebSocket has no half that could be closed: who will send no more is done.
    override func endReceived() {
        close(ChannelClose(CloseCode.normal.rawValue))
        over(nil)
    }

    override func over(_ close: ChannelClose?) {
        switch phase {
        case .connecting, .securing, .upgrading: closeLocal(close.map { "\($0)" })
        case .open:
            let code = close.map { CloseCode($0.code) } ?? .normal
            sayClose(code.isValidOnWire || code == .noStatus ? code : .goingAway, close?.reason ?? "")
            flush()
        case .closing, .over: break
        }
    }

    // MARK: The end

    private func sayClose(_ code: CloseCode, _ reason: String) {
        guard phase == .open else { return }
        FrameEncoder.closePayload(code, reason: reason).withUnsafeBytes { queue(.close, $0) }
        phase = .closing
        endsAt = loop.now + Self.closingMilliseconds
        loop.time(self)
        mayRead = true
    }

    /// Waits for the service's close frame.
    private func discard() {
        while phase == .closing, !hasReceivedClose {
            switch read(limit: loop.plaintextBuffer.count) {
            case .bytes(let bytes):
                var offset = 0
                while offset < bytes.count, !hasReceivedClose {
                    switch reader.next(bytes, &offset) {
                    case .close, .violation: hasReceivedClose = true
                    case .needsInput, .data, .ping, .pong: break
                    }
                }
            case .wouldBlock: return
            case .over: hasReceivedClose = true
            }
        }
    }

    override var deadline: UInt64? { endsAt }

    override func deadlinePassed(_ loop: ClientLoop) {
        if phase == .closing { return closeLocal("\(target): it did not answer the close frame") }
        refuse(504, "it has not answered the handshake in time")
    }

    private func stopTiming() {
        guard endsAt != nil else { return }
        endsAt = nil
        loop.stopTiming(self)
    }

    private func closeLocal(_ failure: String?) {
        guard phase != .over else { return }
        phase = .over
        stopTiming()
        if descriptor >= 0 { Glibc.close(descriptor) }
        descriptor = -1
        output.removeAll(to: loop.pool)
        records.removeAll(to: loop.pool)
        loop.forget(self)
        owner.ended(self, failure)
    }
}
