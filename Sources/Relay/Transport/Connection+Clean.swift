internal import Logging

// A clean connection is one end of one channel as a whole: what it sends and receives are messages of the channel.
extension Connection {
    // MARK: Messages in

    func readClean(_ bytes: UnsafeMutableRawBufferPointer, _ end: ChannelEnd) {
        defer { boundReceive(end) }
        var offset = 0
        var key: UInt32 = 0
        let mayMove = loop.limits.messagesPerSecond == 0
        while lifecycle.readsFrames {
            if mayMove, reader.isBetweenMessages, WebSocketReader.beginsSmallBinary(bytes, offset) {
                end.moveSmallMessages(bytes, &offset)
            }
            let event = reader.nextMasked(bytes, &offset, key: &key, checksText: true)
            switch event {
            case .needsInput:
                return
            case .data(let isText, let range, let isFirst, let isLast):
                guard lifecycle.isOpen else { continue }
                let piece = UnsafeMutableRawBufferPointer(rebasing: bytes[range])
                cleanData(piece, key: key, isText: isText, isFirst: isFirst, isLast: isLast, end)
            case .ping, .pong, .close, .violation:
                control(event)
            }
            if leavesUnread(bytes, offset) { return }
        }
    }

    /// No more is received than there is credit for, but for heads of frames: what is received has to be kept.
    private func boundReceive(_ end: ChannelEnd) {
        handle.receiveBytes = UInt32(clamping: end.credit + Self.receiveBytesWithoutCredit)
    }
    private static let receiveBytesWithoutCredit = 4 << 10

    /// A piece of a message for the other end. What has no credit stays here, and no more is read until it has.
    @inline(__always)
    private func cleanData(
        _ piece: UnsafeMutableRawBufferPointer, key: UInt32, isText: Bool, isFirst: Bool, isLast: Bool,
        _ end: ChannelEnd
    ) {
        guard isFirst || assembly.count == 0 else {
            // It began before the channel did: the app's to its end.
            Masking.apply(key, to: piece)
            return data(UnsafeRawBufferPointer(piece), isText: isText, isFirst: false, isLast: isLast)
        }
        guard end.phase == .open else { return }
        if isFirst {
            guard rate.allows(at: loop.now, limit: loop.limits.messagesPerSecond) else { return exceededRate() }
        }
        guard piece.count <= end.credit else {
            Masking.apply(key, to: piece)
            return stall(UnsafeRawBufferPointer(piece), isText: isText, isLast: isLast, end)
        }
        guard !piece.isEmpty || isLast else { return }
        end.send(UnsafeRawBufferPointer(piece), key: key, isText: isText, more: !isLast)
        if let peer = end.peer, peer.isCrowded { peer.holdBack(self) }
    }

    private func stall(_ piece: UnsafeRawBufferPointer, isText: Bool, isLast: Bool, _ end: ChannelEnd) {
        end.stalled = StalledPiece(bytes: Array(piece), isText: isText, isLast: isLast)
        beginWaiting()
        resumeStalled(end)
        updateTimer()
    }

    /// The other end grants more. What is sent can bring more at once: whoever is sending looks again, so that nothing
    /// is sent twice.
    func resumeStalled(_ end: ChannelEnd) {
        guard var piece = end.stalled else { return }
        end.stalled = nil
        while end.credit > 0, piece.sent < piece.bytes.count {
            let next = piece.sent..<min(piece.bytes.count, piece.sent + end.credit)
            piece.sent = next.upperBound
            let more = next.upperBound < piece.bytes.count || !piece.isLast
            piece.bytes.withUnsafeBytes {
                end.send(UnsafeRawBufferPointer(rebasing: $0[next]), key: 0, isText: piece.isText, more: more)
            }
            guard end.phase == .open else { return }
        }
        guard piece.sent == piece.bytes.count else {
            end.stalled = piece
            deadlines.stalledSince = loop.now  // The server reads, if slowly.
            return
        }
        deadlines.stalledSince = 0
        boundReceive(end)
        stopWaiting()
    }

    // MARK: Messages out

    @inline(__always)
    func queueClean(_ payload: UnsafeRawBufferPointer, key: UInt32, isText: Bool, isFirst: Bool, isLast: Bool) {
        guard lifecycle.isOpen else { return }
        queueFrame(isFirst ? (isText ? .text : .binary) : .continuation, payload, isFinal: isLast, key: key)
    }

    // MARK: Opening

    /// The server has accepted.
    func channelAccepted(_ end: ChannelEnd) {
        guard end.isClean else {
            return queueChannelFrame(.accept, end.number, ChannelFrame.payload(credit: end.credit))
        }
        boundReceive(end)
        if lifecycle.isAdmitting { return letIn() }
        // A connection that a script has made one end of a channel has waited with what it sends.
        stopWaiting()
    }

    /// The server, or the relay, will not have it.
    func channelRejected(_ end: ChannelEnd, code: UInt16, reason: String) {
        guard end.isClean else { return reject(channel: end.number, code, reason) }
        if lifecycle.isAdmitting { return refuse(ChannelReject.status(code), reason) }
        close(.serverGone, reason: reason)
    }

    /// The other end has closed the channel.
    func closeClean(_ code: CloseCode, _ reason: String) {
        // A dedicated connection, or a client, that is still to be answered.
        if lifecycle.isBeforeOpen { return refuse(.badGateway, reason.isEmpty ? "The server has left." : reason) }
        close(code.isValidOnWire || code == .noStatus ? code : .serverGone, reason: reason)
    }

    /// This connection, a server's, is the answer to the open that `end` waits for.
    func join(insteadOf end: ChannelEnd) {
        guard let own = cleanEnd, let record = end.record else { return }
        let peer = end.peer
        let remote = end.remote
        end.detach()
        if let peer, peer.isClean {
            // Two clean ends are a pipe, which moves frames as they are.
            let client = peer.connection
            own.dissolve()
            peer.dissolve()
            pipe(to: client)
            pipe?.record = record
            // Neither reads before both can be written to. A client that a script has connected was answered long ago.
            let isWaiting = client.lifecycle.isOpen
            guard answer(), isWaiting || client.answer() else { return }
            begin()
            if isWaiting { client.stopWaiting() } else { client.begin() }
        } else {
            _ = own.window.grant(own.limit)
            let promised = own.window.passOn(queued: 0, limit: own.limit)
            own.open(to: peer, remote, credit: end.credit, record)
            own.tell(.accept(credit: promised, from: own.address, record))
            letIn()
        }
    }

    // MARK: The end

    func detached(_ end: ChannelEnd) {
        guard end.isClean else {
            channels?.remove(end)
            return
        }
        deadlines.stalledSince = 0
    }

    /// The connection is ending: the other ends of its channels are told why. `isSaid` where its peer says so.
    func leaveChannels(_ code: CloseCode, _ reason: String, isSaid: Bool = false) {
        if let end = cleanEnd, end.phase != .over {
            // A server's dedicated connection ends as servers do, unless it says how.
            end.close(end.isServer && code == .abnormalClosure ? .serverGone : code, reason)
        }
        guard let channels else { return }
        // The relay drains, or the app is removed.
        let concernsBoth = !isSaid && (code == .serviceRestart || code == .goingAway)
        for end in channels.all where end.phase != .over {
            if channels.isLink {
                end.close(.serverGone, "the link between the relays is gone")
            } else if !end.isServer {
                end.close(code, reason)
            } else {
                end.close(concernsBoth ? code : .serverGone, concernsBoth ? reason : "the server has left")
            }
        }
        channels.removeAll(to: loop.pool)
    }
}

/// A piece of a message that has been read from a clean connection and waits for credit.
struct StalledPiece {
    let bytes: [UInt8]
    /// So many of them are on their way.
    var sent = 0
    let isText: Bool
    let isLast: Bool
}
