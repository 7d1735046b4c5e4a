/// One end of a pipe: what only a piped connection has. Each end forwards what it receives to its `peer`.
///
/// Between the head of a forwarded frame and its last byte nothing else may be sent to its receiver. What the relay has
/// to say meanwhile is owed: the newest pong, one ping, one close, which bounds it.
final class PipeEnd {
    /// Where frames go; nil once one of the two is gone. Cut at both ends at once, so that no cycle outlives a pipe.
    var peer: Connection?
    /// Of two clean ends of one channel: it stays listed as long as they are.
    var record: ChannelRecord?
    /// What this end sends is forwarded: a message of it that began before the pipe has ended.
    var isForwarding = false
    /// A frame that is being forwarded to this end has begun and not ended.
    var isInsideFrame = false
    /// Something has been forwarded to this end: only frames of its peer may follow.
    var hasBegun = false
    private(set) var owesPing = false
    private var pong: [UInt8]?
    private var close: [UInt8]?

    init(peer: Connection) { self.peer = peer }

    var owesClose: Bool { close != nil }
    var owesAny: Bool { owesPing || pong != nil || close != nil }

    func owe(_ opcode: Opcode, _ payload: UnsafeRawBufferPointer) {
        switch opcode {
        case .ping: owesPing = true
        case .pong: pong = Array(payload)
        case .close: close = Array(payload)
        case .continuation, .text, .binary: preconditionFailure("a message is owed")
        }
    }

    /// What is owed, in the order in which it goes. Nothing is owed any more.
    func settle() -> [(Opcode, [UInt8])] {
        defer { forgive() }
        var frames: [(Opcode, [UInt8])] = []
        if let pong { frames.append((.pong, pong)) }
        if owesPing { frames.append((.ping, [])) }
        if let close { frames.append((.close, close)) }
        return frames
    }

    func forgive() {
        owesPing = false
        pong = nil
        close = nil
    }
}

// Pipes: what one connection sends goes to another, frame by frame, and no script sees it.
extension Connection {
    private static let goneReason = "the other end of the pipe is gone"

    /// From its next message on, everything that either of the two sends goes to the other.
    func pipe(to other: Connection) {
        pipe = PipeEnd(peer: other)
        other.pipe = PipeEnd(peer: self)
    }

    // MARK: Frames through

    /// Forwards received bytes from `offset` on. Runs for as long as there are any, whatever becomes of either end.
    func forward(_ bytes: UnsafeMutableRawBufferPointer, from offset: Int, _ pipe: PipeEnd) {
        pipe.isForwarding = true
        var offset = offset
        while lifecycle.readsFrames {
            switch forwardNext(bytes, &offset, pipe) {
            case .needsInput:
                return holdBack(pipe)
            case .needsRoom, .frameEnd:
                continue
            case .tooManyMessages:
                exceededRate()
            case .event(let event):
                control(event)
            }
        }
    }

    private func forwardNext(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, _ pipe: PipeEnd
    ) -> WebSocketReader.Forwarded {
        // A frame that has begun is brought to its end, even if one of the two is closing; none begins then.
        guard let target = pipe.peer, let end = target.pipe,
            end.isInsideFrame || (lifecycle.isOpen && target.lifecycle.isOpen)
        else { return discard(bytes, &offset) }
        let allowed = rate.left(at: loop.now, limit: loop.limits.messagesPerSecond)
        let least = WebSocketReader.leastRoom
        let stopsAtFrameEnd = end.owesAny
        var left = allowed
        var forwarded: WebSocketReader.Forwarded
        repeat {
            // Forwarded frames are no longer than received ones, but for a head that lies across two receives.
            let room = target.outbound.reserve(bytes.count - offset + least, atLeast: least, from: loop.pool)
            var written = 0
            forwarded = reader.forward(
                bytes, &offset, into: room, &written, messages: &left, stopsAtFrameEnd: stopsAtFrameEnd)
            target.outbound.commit(written)
            if written > 0 { end.hasBegun = true }
        } while forwarded.needsRoom
        rate.take(allowed - left)
        end.isInsideFrame = reader.isInsideDataFrame && forwarded.isForwarded
        if stopsAtFrameEnd, !end.isInsideFrame { target.settle(end) }
        // Control frames alone have left the reserved chunk empty: an idle connection owns none.
        if target.outbound.isEmpty { target.outbound.removeAll(to: loop.pool) } else { target.setDirty() }
        return forwarded
    }

    /// Reads frames that nobody is there for, up to the peer's close frame.
    private func discard(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int
    ) -> WebSocketReader.Forwarded {
        withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 8) { room in
            var written = 0
            var messages = Int.max
            return reader.forward(bytes, &offset, into: room, &written, messages: &messages, stopsAtFrameEnd: false)
        }
    }

    /// Whoever fills the other's queue is read no further until that has drained.
    private func holdBack(_ pipe: PipeEnd) {
        let limit = loop.limits.outboundHighBytes
        guard let target = pipe.peer, target.queuedBytes > limit else { return }
        target.flush()
        guard target.queuedBytes > limit else { return }
        if lifecycle.isOpen { return wait(for: target) }
        // A close waits for the end of this frame. Who is closing is not paused, so there is a bound to that.
        if target.queuedBytes > 2 * limit, target.pipe?.isInsideFrame == true { target.cutOff() }
    }

    // MARK: Control frames

    /// Queues a control frame, or owes it while a frame is being forwarded to here.
    func queueControl(_ opcode: Opcode, _ payload: UnsafeRawBufferPointer) {
        guard let pipe, pipe.isInsideFrame else { return queueFrame(opcode, payload) }
        pipe.owe(opcode, payload)
    }

    private func settle(_ end: PipeEnd) {
        // Who could not be asked is not to be blamed for silence.
        if end.owesPing { deadlines.lastReceived = loop.now }
        for (opcode, payload) in end.settle() { payload.withUnsafeBytes { queueFrame(opcode, $0) } }
    }

    // MARK: The end

    /// Nothing more will be queued for this connection.
    var hasSaidAll: Bool { lifecycle.isFinishing && pipe?.owesClose != true }

    /// This end is being closed. What concerns both (the relay drains, the app is removed) is what both are told.
    func closeOtherEnd(_ code: CloseCode, _ reason: String) {
        guard let peer = pipe?.peer else { return }
        let concernsBoth = code == .serviceRestart || code == .goingAway
        peer.close(concernsBoth ? code : .serverGone, reason: concernsBoth ? reason : Self.goneReason)
    }

    /// The peer of this end has said farewell: the other end is told the same, behind all that was forwarded.
    func passOnClose(_ code: CloseCode, _ reason: String) {
        pipe?.peer?.close(code, reason: reason)
    }

    /// Nothing comes from this end any more, and nothing can be sent to it.
    func leavePipe() {
        guard let peer = pipe?.peer else { return }
        pipe = nil
        peer.pipe?.peer = nil
        if peer.pipe?.isInsideFrame == true {
            peer.cutOff()
        } else {
            peer.close(.serverGone, reason: Self.goneReason)
        }
    }

    /// The frame that was being forwarded to here will never be whole, so no close frame can follow: what is queued
    /// leaves, and the connection ends.
    private func cutOff() {
        pipe?.isInsideFrame = false
        pipe?.forgive()
        remember(.serverGone, Self.goneReason)
        if lifecycle.silenced() { finish() } else { setDirty() }
    }
}

extension WebSocketReader.Forwarded {
    fileprivate var needsRoom: Bool { if case .needsRoom = self { true } else { false } }
    /// Whether the frame that the reader is in, if it is in one, has been let through.
    fileprivate var isForwarded: Bool {
        switch self {
        case .needsInput, .needsRoom, .frameEnd: true
        case .tooManyMessages, .event: false
        }
    }
}
