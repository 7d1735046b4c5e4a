internal import CUring
internal import Glibc

/// io_uring(7): what a turn submits goes to the kernel in the call that waits for the next, and operations complete
/// within that call alone (`IORING_SETUP_DEFER_TASKRUN`). Accepts are armed once and complete many times.
///
/// Receives are armed one at a time, each when the bytes of the last have been used. A multishot receive saves that
/// submission, but does not end when the peer resets the connection before what it had sent was read: the kernel reads
/// those bytes, takes the socket for empty and waits for a wake-up that has been (seen on Linux 6.18).
///
/// Made on any thread, then used by the one that calls `start`.
final class UringBackend {
    /// What an operation is, in the top bits of its `user_data`; the rest is the descriptor's token.
    private enum Operation {
        /// What waits for input: receive, accept or poll.
        static let armed: UInt64 = 0
        static let send: UInt64 = 1 << 60
        static let cancel: UInt64 = 2 << 60
        /// Waits for an error or a hang-up of a connection that is not received from.
        static let watch: UInt64 = 3 << 60
        static let mask: UInt64 = 0xF << 60
    }

    /// Bits of `IOHandle.state`.
    private enum State {
        /// Completions are wanted.
        static let wanted: UInt32 = 1
        /// The operation that waits for input is with the kernel.
        static let armed: UInt32 = 2
        /// What waits was asked to end.
        static let cancelling: UInt32 = 4
        static let sending: UInt32 = 8
        /// A watch is with the kernel.
        static let watched: UInt32 = 16
    }

    private static let submissions: UInt32 = 1024
    /// More than these wait in the kernel's memory, at some cost.
    private static let completions: UInt32 = 8192
    /// Completions of one turn: many, so that it has much to send at its end, but not so many that timers are late.
    private static let completionsPerTurn: UInt32 = 1024

    private let ring: OpaquePointer
    private let buffers: ReceiveBuffers
    private var vectors = SendVectors()
    /// The mailbox and the signals, which nobody else keeps a handle of.
    private var polled: [IOToken: IOHandle] = [:]
    /// Output of connections that are gone, by their send's name: the kernel may still read it.
    private var abandoned: [UInt64: AbandonedOutput] = [:]
    /// Completions of this turn, and how many of them have been handed out.
    private var completed = curing_completions()
    private var taken: UInt32 = 0
    /// The buffer that the last completion used up: free for the kernel once its bytes have been looked at.
    private var usedUp: UInt16?
    /// The connection that the last completion was about, if it received.
    private var receiver: IOToken?

    /// Fails with a reason where the kernel is too old (it takes Linux 6.1), or does not allow io_uring.
    /// `incrementalBuffers: false` leaves Linux 6.12's buffers unused, as an older kernel would.
    init(incrementalBuffers: Bool = true) throws(StartError) {
        var code: Int32 = 0
        guard let ring = curing_create(Self.submissions, Self.completions, &code) else {
            throw StartError("cannot create a ring: \(System.describe(errno: -code))")
        }
        do { buffers = try ReceiveBuffers(ring, allowIncremental: incrementalBuffers) } catch {
            curing_destroy(ring)
            throw error
        }
        self.ring = ring
    }

    // The ring goes before its buffers do.
    deinit { curing_destroy(ring) }

    /// The calling thread is the one that submits from now on.
    func start() {
        let code = curing_enable(ring)
        precondition(code == 0, "a ring cannot be enabled: \(System.describe(errno: -code))")
    }

    // MARK: Registering

    func add(_ handle: inout IOHandle) -> Bool {
        handle.state = State.wanted
        arm(&handle)
        if handle.token.owner == .mailbox || handle.token.owner == .signals { polled[handle.token] = handle }
        return true
    }

    /// A receive that is armed stays so: at most one more completion comes, and it is not armed again.
    func pauseReceive(_ handle: inout IOHandle) {
        handle.state &= ~State.wanted
    }

    func resumeReceive(_ handle: inout IOHandle) {
        handle.state |= State.wanted
        if handle.state & State.armed == 0 { arm(&handle) }
    }

    /// False as long as the kernel has an operation under way: its completion still comes.
    func release(_ handle: inout IOHandle) -> Bool {
        handle.state &= ~State.wanted
        disarm(&handle)
        guard handle.state & (State.armed | State.sending | State.watched) == 0 else { return false }
        handle.state = 0
        return true
    }

    func close(_ handle: inout IOHandle, abandoning output: consuming OutboundBuffer?) {
        disarm(&handle)
        if handle.state & State.sending != 0 {
            let name = handle.token.rawValue | Operation.send
            abandoned[name] = AbandonedOutput(output)
            cancel(name)
        }
        handle.state = 0
        // In the queue as well: what is submitted before it names the descriptor, whose number must not have gone to
        // another thread's socket meanwhile. Operations that are under way have references of their own: the socket
        // goes when the last of them has been cancelled.
        let name = handle.token.rawValue | Operation.cancel
        while !curing_close(ring, handle.fileDescriptor, name) { submit() }
    }

    private func arm(_ handle: inout IOHandle) {
        handle.state = handle.state & ~State.cancelling | State.armed
        let name = handle.token.rawValue | Operation.armed
        let fileDescriptor = handle.fileDescriptor
        switch handle.token.owner {
        case .connection:
            while !curing_receive(ring, fileDescriptor, handle.receiveBytes, name) { submit() }
        case .listener:
            while !curing_accept(ring, fileDescriptor, name) { submit() }
        case .mailbox, .signals, nil:
            while !curing_poll(ring, fileDescriptor, name) { submit() }
        }
    }

    /// Asks what waits to end, once: what is armed afterwards can be asked anew.
    private func disarm(_ handle: inout IOHandle) {
        guard handle.state & State.cancelling == 0 else { return }
        if handle.state & State.armed != 0 { cancel(handle.token.rawValue | Operation.armed) }
        if handle.state & State.watched != 0 { cancel(handle.token.rawValue | Operation.watch) }
        handle.state |= State.cancelling
    }

    private func cancel(_ operation: UInt64) {
        let name = operation & ~Operation.mask | Operation.cancel
        while !curing_cancel(ring, operation, name) { submit() }
    }

    // MARK: Sending

    @inline(__always)
    func send(_ handle: inout IOHandle, _ output: borrowing OutboundBuffer) -> SendOutcome {
        let name = handle.token.rawValue | Operation.send
        let first = output.first
        if first.count == output.byteCount {
            while !curing_send(
                ring, handle.fileDescriptor, first.baseAddress, first.count, handle.endsRecords, name)
            { submit() }
        } else {
            // Room first: submitting frees the descriptions, the one that is about to be queued as well.
            while vectors.isFull || curing_unsubmitted(ring) == Self.submissions { submit() }
            let isQueued = curing_send_message(
                ring, handle.fileDescriptor, vectors.describe(output), handle.endsRecords, name)
            precondition(isQueued, "a queue with room takes nothing")
        }
        handle.state |= State.sending
        return .pending
    }

    /// Hands to the kernel what was submitted, when a queue is full.
    @inline(never)
    private func submit() { entered(curing_enter(ring, 0, 0)) }

    /// Looks at what io_uring_enter(2) answered.
    private func entered(_ code: Int32) {
        switch code {
        // The time is over, a signal came, memory is out for a moment: what was not taken goes with the next call.
        case 0, -ETIME, -EINTR, -EAGAIN, -EBUSY: break
        default:
            // Any other code says that the ring itself is broken, and with it every socket of this loop.
            fatalError("io_uring_enter failed: \(System.describe(errno: -code))")
        }
        // Vectors are read as they are submitted (IORING_FEAT_SUBMIT_STABLE), and free from then on.
        if curing_unsubmitted(ring) == 0 { vectors.removeAll() }
    }

    // MARK: Completions

    /// Submits what the turn has asked for, and blocks until something completed or `timeoutMilliseconds` are over (-1:
    /// no limit).
    func wait(timeoutMilliseconds: Int32) {
        giveBack()
        curing_advance(ring, taken)
        taken = 0
        entered(curing_enter(ring, timeoutMilliseconds, Self.completionsPerTurn))
        completed = curing_completions(ring)
        completed.ready = min(completed.ready, Self.completionsPerTurn)
    }

    /// The next completion of this turn; `table` knows which connection or listener a token names.
    func next(_ table: ConnectionTable) -> Completion? {
        giveBack()
        armReceiver(table)
        while taken < completed.ready {
            // SAFETY: the kernel has filled `ready` entries from the head on, which `wait` alone moves.
            let entry = completed.entries[Int((completed.head &+ taken) & completed.mask)]
            taken &+= 1
            let token = IOToken(rawValue: entry.name & ~Operation.mask)
            switch entry.name & Operation.mask {
            case Operation.send:
                if let completion = sent(token, entry, table) { return completion }
            case Operation.armed:
                if let completion = happened(token, entry, table) { return completion }
            case Operation.watch:
                if let completion = hungUp(token, entry, table) { return completion }
            default:
                break  // A cancellation that found nothing, or a close that failed.
            }
        }
        return nil
    }

    /// The connection whose bytes were looked at last receives again, unless it was paused or closed meanwhile.
    @inline(__always)
    private func armReceiver(_ table: ConnectionTable) {
        guard let token = receiver else { return }
        receiver = nil
        guard let connection = table[token] else { return }
        armAgain(connection)
    }

    /// What has received receives again; or it is watched, where it is paused.
    @inline(__always)
    private func armAgain(_ connection: Connection) {
        guard connection.handle.state & State.armed == 0 else { return }
        if connection.handle.state & State.wanted != 0 {
            arm(&connection.handle)
        } else if connection.handle.state & State.watched == 0, !connection.isMoving {
            watch(&connection.handle)
        }
    }

    /// A connection may be paused for long: that its peer is gone shows even so.
    private func watch(_ handle: inout IOHandle) {
        handle.state = handle.state & ~State.cancelling | State.watched
        while !curing_watch(ring, handle.fileDescriptor, handle.token.rawValue | Operation.watch) { submit() }
    }

    @inline(__always)
    private func giveBack() {
        guard let buffer = usedUp else { return }
        usedUp = nil
        buffers.giveBack(buffer)
    }

    @inline(__always)
    private func sent(_ token: IOToken, _ entry: curing_completion, _ table: ConnectionTable) -> Completion? {
        guard let connection = table[token] else {
            abandoned.removeValue(forKey: entry.name)
            return nil
        }
        connection.handle.state &= ~State.sending
        if entry.result >= 0 { return .sent(token, Int(entry.result)) }
        return .sendFailed(token, errno: -entry.result)
    }

    private func hungUp(_ token: IOToken, _ entry: curing_completion, _ table: ConnectionTable) -> Completion? {
        guard let connection = table[token] else { return nil }
        connection.handle.state &= ~State.watched
        // A peer that only ended its output (POLLRDHUP) wants what it has sent to be read, once that goes on.
        guard entry.result > 0, entry.result & (POLLERR | POLLHUP) != 0 else { return nil }
        // Who is received from hears of it there, behind the bytes that came before.
        guard connection.handle.state & (State.wanted | State.armed) == 0 else { return nil }
        return .receiveFailed(token, errno: ECONNRESET)
    }

    @inline(__always)
    private func happened(_ token: IOToken, _ entry: curing_completion, _ table: ConnectionTable) -> Completion? {
        switch token.owner {
        case .connection:
            return received(token, entry, table)
        case .listener:
            return accepted(token, entry, table)
        case .mailbox, .signals:
            if entry.flags & CURING_MORE == 0, var handle = polled[token] { arm(&handle) }
            return .readable(token)
        case nil:
            return nil
        }
    }

    @inline(__always)
    private func received(_ token: IOToken, _ entry: curing_completion, _ table: ConnectionTable) -> Completion? {
        var bytes = UnsafeMutableRawBufferPointer(start: nil, count: 0)
        if entry.flags & CURING_BUFFER != 0 {
            let buffer = UInt16(truncatingIfNeeded: entry.flags >> 16)
            bytes = buffers.piece(of: buffer, count: Int(max(0, entry.result)))
            if entry.flags & CURING_BUFFER_MORE == 0 { usedUp = buffer }
        }
        guard let connection = table[token] else {
            giveBack()  // It came for a connection that is gone.
            return nil
        }
        connection.handle.state &= ~State.armed
        switch entry.result {
        case 1...:
            receiver = token
            return .received(token, bytes)
        case 0:
            return .endOfStream(token)
        case -ENOBUFS, -ECANCELED, -EINTR, -EAGAIN:
            // All buffers were in use, or something that passes: they are free when the turn is over.
            giveBack()
            armAgain(connection)
            return nil
        default:
            return .receiveFailed(token, errno: -entry.result)
        }
    }

    private func accepted(_ token: IOToken, _ entry: curing_completion, _ table: ConnectionTable) -> Completion? {
        let isArmed = entry.flags & CURING_MORE != 0
        guard let listener = table.listener(token) else {
            if entry.result >= 0 { System.close(entry.result) }
            return nil
        }
        if !isArmed { listener.handle.state &= ~State.armed }
        switch -entry.result {
        case EMFILE, ENFILE, ENOBUFS, ENOMEM:
            return .acceptExhausted(token, errno: -entry.result)
        default:
            // One connection failed before it reached us, or the kernel stopped for a reason that passes.
            if !isArmed, listener.handle.state & State.wanted != 0 { arm(&listener.handle) }
        }
        guard entry.result >= 0 else { return nil }
        guard let address = System.peerAddress(entry.result) else {
            System.close(entry.result)  // It is gone already.
            return nil
        }
        return .accepted(token, fileDescriptor: entry.result, address)
    }
}
