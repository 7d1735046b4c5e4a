internal import Logging

// Bytes in: decrypt, then a request head or frames, then whole messages to the app.
extension Connection {
    /// The loop has received. `bytes` are lent, and changed in place (decoded frames are unmasked there).
    func received(_ bytes: UnsafeMutableRawBufferPointer) {
        if lifecycle.ignoresInput { return }
        deadlines.lastReceived = loop.now
        if let secure, !lifecycle.isReadingProxyHeader {
            decrypt(UnsafeRawBufferPointer(bytes), secure)
        } else {
            consume(bytes)
        }
        // Behind a whole head: the app decides, and only now, because TLS may have had more to decrypt.
        if lifecycle.isBeforeOpen, hasWork { serve() }
    }

    func decrypt(_ ciphertext: UnsafeRawBufferPointer, _ secure: SecureLayer) {
        secure.session.receive(ciphertext)
        if lifecycle.isSecuring {
            let step = secure.session.handshake(output: &secure.ciphertext, pool: loop.pool)
            setDirty()
            switch step {
            case .needsInput: return
            case .done:
                lifecycle.secured()
                handshakeEnded()
            case .failed(let failure): return tlsFailed(failure)
            }
        }
        while !lifecycle.ignoresInput {
            let step = secure.session.read(into: loop.plaintext, output: &secure.ciphertext, pool: loop.pool)
            switch step {
            case .bytes(let count):
                consume(UnsafeMutableRawBufferPointer(rebasing: loop.plaintext[..<count]))
            case .needsInput:
                // Reading can have made output: an alert, an answer to KeyUpdate.
                if !secure.ciphertext.isEmpty { setDirty() }
                return
            case .closed:
                return endOfStream()
            case .failed(let failure):
                return tlsFailed(failure)
            }
        }
    }

    private func tlsFailed(_ failure: TLSFailure) {
        loop.shared.logger.debug(
            "TLS failed", metadata: ["connection": "\(id)", "remote": "\(address.host)", "reason": "\(failure)"])
        secure?.hasSaidGoodbye = true
        guard lifecycle.silenced() else { return }
        leavePipe()
        leaveChannels(.abnormalClosure, "")
        outbound.removeAll(to: loop.pool)  // It can no longer be encrypted, and must not stand in the alert's way.
        deadlines.enter(.finishing, at: loop.now, limits: loop.limits)
        updateTimer()
        setDirty()
    }

    /// Plain bytes, wherever they came from.
    func consume(_ bytes: UnsafeMutableRawBufferPointer) {
        if lifecycle.readsFrames, !isHeld, unread.isEmpty {
            readFrames(bytes)
        } else if lifecycle.readsRequest {
            readRequest(UnsafeRawBufferPointer(bytes))
        } else if lifecycle.isAdmitting || lifecycle.isAnswering || lifecycle.readsFrames {
            // At most what one turn receives: receiving is paused, and resumes when this is used up.
            unread.append(contentsOf: bytes)
        } else if lifecycle.isReadingProxyHeader {
            readProxyHeader(bytes)
        }
    }

    /// Uses what was kept while the app decided, or while this connection had to wait.
    func readUnread() {
        guard !unread.isEmpty, lifecycle.readsFrames, !isHeld else { return }
        var kept = unread
        unread = []
        kept.withUnsafeMutableBytes { readFrames($0) }
    }

    // MARK: Frames

    private func readFrames(_ bytes: UnsafeMutableRawBufferPointer) {
        var offset = 0
        if let channels { return readChannels(bytes, channels) }
        if let cleanEnd, pipe == nil { return readClean(bytes, cleanEnd) }
        while lifecycle.readsFrames {
            // A message that began before the pipe is the app's to its end.
            if let pipe, !reader.isInsideMessage || pipe.isForwarding { return forward(bytes, from: offset, pipe) }
            let event = reader.next(bytes, &offset)
            switch event {
            case .needsInput:
                return
            case .data(let isText, let piece, let isFirst, let isLast):
                let piece = UnsafeRawBufferPointer(rebasing: bytes[piece])
                data(piece, isText: isText, isFirst: isFirst, isLast: isLast)
            case .ping, .pong, .close, .violation:
                control(event)
            }
            if leavesUnread(bytes, offset) { return }
        }
    }

    /// Whether the rest of what was received has to wait. It is kept then.
    @inline(__always)
    func leavesUnread(_ bytes: UnsafeMutableRawBufferPointer, _ offset: Int) -> Bool {
        guard offset < bytes.count, lifecycle.isOpen else { return false }
        if isHeld {
            // Whoever fills another's queue is stopped here, not after everything that it has sent already.
            unread.append(contentsOf: bytes[offset...])
            return true
        }
        if hasHadItsTurn {
            unread.append(contentsOf: bytes[offset...])
            continueNextTurn()
            return true
        }
        return false
    }

    /// What is no data.
    func control(_ event: WebSocketReader.Event) {
        switch event {
        case .ping(let payload):
            pong(payload)
        case .close(let code, let reason):
            closeReceived(code, reason)
        case .violation(let violation):
            violated(violation.code, "\(violation.reason)")
        case .pong, .data, .needsInput:
            break  // A pong is a sign of life, as every byte is.
        }
    }

    /// Whether this turn has lasted so long that the rest of what was received should wait: one segment can hold a
    /// thousand messages, each of which may run a script for its whole burst.
    var hasHadItsTurn: Bool {
        guard deliveredMessage else { return false }
        deliveredMessage = false
        return System.monotonicMilliseconds() &- loop.now > Self.turnMilliseconds
    }
    private static let turnMilliseconds: UInt64 = 10

    func data(_ piece: UnsafeRawBufferPointer, isText: Bool, isFirst: Bool, isLast: Bool) {
        guard lifecycle.isOpen else { return }  // Our close frame is on its way: data is read and ignored.
        if isFirst, isLast { return message(piece, isText: isText) }
        assembly.append(piece)
        guard isLast else { return }
        // Taken out first: what the message causes can end this connection, and that frees its assembly.
        var whole = MessageAssembly()
        swap(&whole, &assembly)
        message(whole.bytes, isText: isText)
        whole.removeAll()
    }

    private func message(_ bytes: UnsafeRawBufferPointer, isText: Bool) {
        // What relays tell each other is none of a client's.
        guard rate.allows(at: loop.now, limit: loop.limits.messagesPerSecond) || subprotocol == .link else {
            return exceededRate()
        }
        deliveredMessage = true
        if isAway { return mail(bytes, isText: isText) }
        app?.received(bytes, isText: isText, from: .here(self))
    }

    func exceededRate() {
        close(.limit, reason: "more than \(loop.limits.messagesPerSecond) messages per second")
    }

    /// Answers a ping. Pongs that a peer does not read are not piled up: above the watermark the newest is left out,
    /// which RFC 6455 §5.5.3 allows.
    private func pong(_ payload: UnsafeRawBufferPointer) {
        guard lifecycle.isOpen, queuedBytes < loop.limits.outboundHighBytes else { return }
        queueControl(.pong, payload)
    }

    private func closeReceived(_ code: CloseCode?, _ reason: UnsafeRawBufferPointer) {
        let text = String(decoding: reason, as: UTF8.self)
        let action = lifecycle.closeReceived()
        if case .sendClose = action {
            remember(code ?? .noStatus, text)
            // An empty close is answered with an empty one, a code with the same code (RFC 6455 §5.5.1).
            if let code {
                queueClose(code, "")
            } else {
                queueControl(.close, UnsafeRawBufferPointer(start: nil, count: 0))
            }
            passOnClose(code ?? .noStatus, text)
            leaveChannels(code ?? .noStatus, text, isSaid: true)
        }
        finish()
    }

    /// The peer broke a rule: it is told which, and the connection ends.
    func violated(_ code: CloseCode, _ reason: String) {
        remember(code, reason)
        if case .sendClose = lifecycle.violated() { queueClose(code, reason) }
        closeOtherEnd(code, reason)
        leaveChannels(code, reason)
        assembly.removeAll()
        finish()
    }

    /// All that will be sent is queued.
    func finish() {
        deadlines.enter(.finishing, at: loop.now, limits: loop.limits)
        updateTimer()
        startReceiving()
        setDirty()
    }
}
