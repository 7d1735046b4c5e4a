internal import Logging

// Bytes out: everything is queued during a turn and leaves in one send at its end.
extension Connection {
    /// Bytes that wait in line to be sent. What waits in the queues of channels is none of it: whatever is said from
    /// now on goes before that, and credit bounds it.
    var queuedBytes: Int { outbound.byteCount + (secure?.ciphertext.byteCount ?? 0) }

    /// All that waits to be sent.
    private var waitingBytes: Int { queuedBytes + (channels?.backlogBytes ?? 0) }

    /// Queues one whole message; false where the connection takes none any more.
    @inline(__always)
    func sendMessage(_ bytes: UnsafeRawBufferPointer, isText: Bool) -> Bool {
        guard lifecycle.isOpen, pipe?.hasBegun != true, cleanEnd == nil || cleanEnd?.phase == .opening else {
            return false
        }
        queueFrame(isText ? .text : .binary, bytes)
        return true
    }

    /// Queues a frame, header and payload, which is masked with `key`.
    @inline(__always)
    func queueFrame(
        _ opcode: Opcode, _ payload: UnsafeRawBufferPointer, isFinal: Bool = true, key: UInt32 = 0
    ) {
        let mask = takeMask()
        withUnsafeTemporaryAllocation(byteCount: 14, alignment: 8) { header in
            // SAFETY: the allocation has the 14 bytes that a header can take.
            let length = FrameEncoder.writeHeader(
                isFinal: isFinal, opcode: opcode, payloadLength: payload.count, maskingKey: mask,
                into: header.baseAddress!)
            outbound.append(UnsafeRawBufferPointer(rebasing: header[..<length]), from: loop.pool)
        }
        outbound.append(payload, key: key ^ (mask ?? 0), from: loop.pool)
        setDirty()
    }

    /// The key for the next frame; nil where frames are not masked.
    @inline(__always)
    func takeMask() -> UInt32? { isDialled ? loop.maskingKeys.take() : nil }

    func queueClose(_ code: CloseCode, _ reason: String) {
        let payload = FrameEncoder.closePayload(code, reason: reason)
        payload.withUnsafeBytes { queueControl(.close, $0) }
    }

    /// Queues bytes that are no frame: a response to the handshake.
    func queueBytes(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { outbound.append($0, from: loop.pool) }
        setDirty()
    }

    @inline(__always)
    func setDirty() {
        guard !isDirty else { return }
        isDirty = true
        loop.markDirty(self)
    }

    // MARK: The end of the turn

    /// Encrypts and sends what waits, then looks at what follows from it.
    func flush() {
        isDirty = false
        guard !lifecycle.isDead else { return removeIfDead() }
        // What waits goes along: a send that began now would hold the move up, and the next one again.
        guard !isDeparting else { return }
        // A part at a time, for as long as the socket takes it: what is encrypted cannot be counted by message, and
        // what is taken from a channel's queue cannot be overtaken any more.
        repeat {
            if let channels { fill(channels) }
            if let secure {
                encrypt(secure)
                if !sendFailed { transmit(&secure.ciphertext) }
            } else {
                transmit(&outbound)
            }
        } while !isSending && !sendFailed && (!outbound.isEmpty || channels?.hasBacklog == true)
        afterSending()
    }

    /// Gives channels their turns. What has room now can bring more, to this very connection: so the buffer is nobody's
    /// meanwhile.
    private func fill(_ channels: Multiplexer) {
        handle.endsRecords = channels.hasBacklog
        while let end = channels.giveTurn(&outbound, encrypted: secure?.ciphertext.byteCount ?? 0) {
            end.hadTurn()
        }
    }

    /// A lifecycle that reached its end in an action still has its descriptor.
    private func removeIfDead() { disconnect(code: closeCode, reason: closeReason) }

    /// Bytes that may wait in encrypted form. What is beyond stays plain, where it can still be counted by message.
    private static let ciphertextBytes = 256 << 10

    private func encrypt(_ secure: SecureLayer) {
        while !outbound.isEmpty, secure.ciphertext.byteCount < Self.ciphertextBytes {
            switch secure.session.write(outbound.first, output: &secure.ciphertext, pool: loop.pool) {
            case .written(let count): outbound.consume(count, to: loop.pool)
            case .failed: return sendFailed = true
            }
        }
        if outbound.isEmpty, hasSaidAll, !secure.hasSaidGoodbye {
            secure.hasSaidGoodbye = true
            secure.session.shutdown(output: &secure.ciphertext, pool: loop.pool)
        }
    }

    private func transmit(_ wire: inout OutboundBuffer) {
        guard !isSending else { return }
        while !wire.isEmpty {
            switch loop.backend.send(&handle, wire) {
            case .sent(let count):
                wire.consume(count, to: loop.pool)
                if let channels { took(count, all: wire.isEmpty, channels) }
            case .pending:
                isSending = true
                return
            case .failed:
                sendFailed = true
                return
            }
        }
    }

    /// How fast the socket takes decides how much is put in front of it, here and in the kernel.
    private func took(_ count: Int, all: Bool, _ channels: Multiplexer) {
        guard channels.took(count, all: all, more: !all || channels.hasBacklog, at: loop.now) else { return }
        System.setUnsentLimit(handle.fileDescriptor, bytes: Int32(channels.unsentLimit))
    }

    /// Part of a pending send has left.
    func sent(_ count: Int) {
        isSending = false
        if let secure {
            secure.ciphertext.consume(count, to: loop.pool)
        } else {
            outbound.consume(count, to: loop.pool)
        }
        if let channels { took(count, all: secure?.ciphertext.isEmpty ?? outbound.isEmpty, channels) }
        // Mostly that was all, and nobody waits for it.
        if queuedBytes == 0, channels?.hasBacklog != true, channels?.untakenBytes ?? 0 == 0, waiters.isEmpty,
            deadlines.slowSince == 0, lifecycle.readsFrames, cleanEnd == nil
        {
            return
        }
        setDirty()
    }

    /// Runs `body` on the bytes that a pending send is about.
    @inline(__always)
    func withPendingOutput<R>(_ body: (borrowing OutboundBuffer) -> R) -> R {
        if let secure { return body(secure.ciphertext) }
        return body(outbound)
    }

    /// Takes out what a pending send is about, if there is one: the kernel may read it when the connection is gone.
    func takePendingOutput() -> OutboundBuffer? {
        guard isSending else { return nil }
        isSending = false
        var taken = OutboundBuffer()
        if let secure { swap(&taken, &secure.ciphertext) } else { swap(&taken, &outbound) }
        return taken
    }

    private func afterSending() {
        if sendFailed { return disconnect(code: .abnormalClosure, reason: "") }
        let queued = queuedBytes
        if queued == 0, hasSaidAll {
            switch lifecycle.outputDrained() {
            case .none: break
            case .disconnect: return disconnect(code: closeCode, reason: closeReason)
            case .shutdownWrite:
                System.shutdownWrite(handle.fileDescriptor)
                deadlines.enter(.lingering, at: loop.now)
                updateTimer()
            }
        }
        if queued <= loop.limits.outboundLowBytes {
            releaseWaiters()
            if let channels, channels.untakenBytes > 0 { taken(channels) }
            if deadlines.phase == .blocked { answerHasLeft() }
        }
        watchSlowness()
        if let cleanEnd, cleanEnd.phase == .open { cleanEnd.returnCredit(queued: queued) }
    }

    /// Who takes too little for too long is closed: the deadline runs from above the high watermark to below the low
    /// one, and as long as somebody waits for this connection.
    private func watchSlowness() {
        let waiting = waitingBytes
        guard waiting > loop.limits.outboundHighBytes || !waiters.isEmpty else {
            if waiting <= loop.limits.outboundLowBytes { deadlines.slowSince = 0 }
            return
        }
        guard deadlines.slowSince > 0 else {
            deadlines.slowSince = loop.now
            channels?.takenBytes = 0
            return updateTimer()
        }
        // Who fills a multiplexed connection does not wait until it has drained, so it may well be above for ever: slow
        // is who does not take within the deadline what others have to.
        if let channels, channels.takenBytes >= loop.limits.outboundHighBytes - loop.limits.outboundLowBytes {
            deadlines.slowSince = loop.now
            channels.takenBytes = 0
        }
    }

    // MARK: Deadlines

    /// Sets the one timer to the next deadline.
    func updateTimer() {
        if let timer { loop.cancel(timer) }
        timer = nil
        guard !lifecycle.isDead else { return }
        let next = deadlines.next(after: loop.now, isPaused: cannotBeAsked, loop.limits)
        guard next != .max else { return }
        timer = loop.schedule(at: next, for: self)
    }

    func timerFired() {
        // Usually the one that fired; but another timer of this turn may have set a new one meanwhile.
        if let timer { loop.cancel(timer) }
        timer = nil
        switch deadlines.due(at: loop.now, isPaused: cannotBeAsked, loop.limits) {
        case .nothing:
            break
        case .phase:
            handshakeOrGoodbyeTookTooLong()
        case .drain:
            close(.serviceRestart, reason: "the relay is shutting down")
        case .slowConsumer:
            loop.shared.logger.info(
                "closing a slow consumer", metadata: ["connection": "\(id)", "queuedBytes": "\(waitingBytes)"])
            close(.slowConsumer, reason: "output was not read for too long")
        case .stalled:
            close(.slowConsumer, reason: "the other end of the channel has not read for too long")
        case .opening:
            openingsDue()
        case .idle:
            close(.idle, reason: "nothing was received for too long")
        case .credential:
            close(.credentialRevoked, reason: "the credential has expired")
        case .ping:
            deadlines.pingSent = loop.now
            queueControl(.ping, UnsafeRawBufferPointer(start: nil, count: 0))
        }
        if !lifecycle.isDead, timer == nil { updateTimer() }
    }

    private func handshakeOrGoodbyeTookTooLong() {
        if requestTookTooLong() { return }
        if lifecycle.isReadingHead {
            return refuse(.requestTimeout, "The request head did not arrive within the handshakeTimeout.")
        }
        if lifecycle.isAdmitting, let end = cleanEnd, end.phase == .opening {
            let reason = "The server has not answered within the handshakeTimeout."
            end.close(CloseCode(ChannelReject.timeout), reason)
            return refuse(.gatewayTimeout, reason)
        }
        if lifecycle.isAdmitting {
            return refuse(.serviceUnavailable, "The handshake was not decided within the handshakeTimeout.")
        }
        if lifecycle.isReadingProxyHeader { return failProxyHeader(.incomplete) }
        disconnect(code: closeCode, reason: closeReason)
    }

    /// The relay drains: leave at `deadline`, with 1012; who is not in yet stays out.
    func drain(at deadline: UInt64) {
        if lifecycle.isSecuring || lifecycle.isReadingProxyHeader {
            return disconnect(code: .serviceRestart, reason: "")
        }
        if drainRequests() { return }
        if lifecycle.isBeforeOpen { return refuse(.draining) }
        deadlines.drain = deadline
        if channels != nil {
            let json = #"{"reconnectInMilliseconds":\#(deadline - loop.now)}"#
            queueChannelFrame(.drain, .connection, Array(json.utf8))
        }
        updateTimer()
    }
}
