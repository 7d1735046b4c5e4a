internal import CLinux
internal import Glibc

/// epoll(7), level-triggered: one receive per readable socket and turn, one send per socket with output and turn.
final class EpollBackend {
    /// One receive takes at most so many bytes. 64 KiB is what a 64 KiB message needs in one go, and stays in the
    /// second-level cache; larger buffers did not make fewer system calls in the prototypes of DESIGN §3.
    static let receiveBytes = 64 << 10
    /// The most that `IOHandle.receiveBytes` may ask for.
    static let mostReceiveBytes = 512 << 10
    /// Events per epoll_wait(2): enough that a busy turn batches its sends, few enough that timers are not late.
    private static let eventCount = 512
    /// Connections accepted per listener and turn, so that a storm of them does not starve those that are open.
    private static let acceptsPerTurn = 64

    private let epoll: Int32
    private let events: UnsafeMutablePointer<epoll_event>
    private let buffer: UnsafeMutableRawBufferPointer
    private var ready = 0
    private var cursor = 0
    private var accepts = 0
    /// Set while a listener's or send's event at `cursor` is only partly used up.
    private var partEvents: UInt32 = 0

    init() throws(StartError) {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else {
            throw StartError("cannot create an epoll descriptor: \(System.describe(errno: errno))")
        }
        events = .allocate(capacity: Self.eventCount)
        buffer = .allocate(byteCount: Self.mostReceiveBytes, alignment: 64)
    }

    deinit {
        events.deallocate()
        buffer.deallocate()
        System.close(epoll)
    }

    // MARK: Registering

    /// Registers a descriptor and arms its receive; false where the kernel has no room for another one.
    func add(_ handle: inout IOHandle) -> Bool {
        var event = clinux_epoll_event(CLINUX_EPOLLIN, handle.token.rawValue)
        guard epoll_ctl(epoll, EPOLL_CTL_ADD, handle.fileDescriptor, &event) == 0 else { return false }
        handle.state = CLINUX_EPOLLIN
        return true
    }

    /// False as long as a send is pending; nothing is received any more.
    func release(_ handle: inout IOHandle) -> Bool {
        guard handle.state & CLINUX_EPOLLOUT == 0 else {
            pauseReceive(&handle)
            return false
        }
        var unused = epoll_event()
        _ = epoll_ctl(epoll, EPOLL_CTL_DEL, handle.fileDescriptor, &unused)
        handle.state = 0
        return true
    }

    func close(_ handle: inout IOHandle) {
        // A descriptor that is closed leaves the interest list by itself (epoll(7)): nobody else holds a copy.
        handle.state = 0
        System.close(handle.fileDescriptor)
    }

    func pauseReceive(_ handle: inout IOHandle) {
        change(&handle, to: handle.state & ~CLINUX_EPOLLIN)
    }

    func resumeReceive(_ handle: inout IOHandle) {
        change(&handle, to: handle.state | CLINUX_EPOLLIN)
    }

    /// Starts to send what waits in `output`; the owner consumes what the outcome counts.
    @inline(__always)
    func send(_ handle: inout IOHandle, _ output: borrowing OutboundBuffer) -> SendOutcome {
        switch System.send(handle.fileDescriptor, output, endsRecord: handle.endsRecords) {
        case .bytes(let count):
            return .sent(count)
        case .wouldBlock:
            change(&handle, to: handle.state | CLINUX_EPOLLOUT)
            return .pending
        case .failed(let code):
            return .failed(errno: code)
        }
    }

    private func change(_ handle: inout IOHandle, to interest: UInt32) {
        guard interest != handle.state else { return }
        var event = clinux_epoll_event(interest, handle.token.rawValue)
        // Modifying takes no memory (epoll_ctl(2)): what can fail is only a descriptor that is not registered.
        let code = epoll_ctl(epoll, EPOLL_CTL_MOD, handle.fileDescriptor, &event)
        precondition(code == 0, "epoll_ctl failed on a registered socket: \(System.describe(errno: errno))")
        handle.state = interest
    }

    // MARK: Completions

    /// Blocks until something happened or `timeoutMilliseconds` are over (-1: no limit).
    func wait(timeoutMilliseconds: Int32) {
        cursor = 0
        partEvents = 0
        let count = epoll_wait(epoll, events, Int32(Self.eventCount), timeoutMilliseconds)
        ready = Int(max(0, count))
    }

    /// The next completion of this turn; `table` knows which connection or listener a token names.
    func next(_ table: ConnectionTable) -> Completion? {
        while cursor < ready {
            let token = IOToken(rawValue: clinux_epoll_token(events + cursor))
            let happened = partEvents != 0 ? partEvents : events[cursor].events
            switch token.owner {
            case .connection:
                if let completion = nextOfConnection(token, happened, table) { return completion }
            case .listener:
                if let completion = nextOfListener(token, table) { return completion }
            case .mailbox, .signals:
                advance()
                return .readable(token)
            case nil:
                advance()
            }
        }
        return nil
    }

    private func advance() {
        cursor += 1
        partEvents = 0
        accepts = 0
    }

    /// One event can stand for two completions: room to send, then bytes to receive.
    private func nextOfConnection(
        _ token: IOToken, _ happened: UInt32, _ table: ConnectionTable
    ) -> Completion? {
        guard let connection = table[token] else {
            advance()  // Removed earlier in this turn.
            return nil
        }
        if happened & CLINUX_EPOLLOUT != 0 {
            partEvents = happened & ~CLINUX_EPOLLOUT
            if partEvents == 0 { advance() }
            return sendAgain(token, connection)
        }
        advance()
        guard connection.handle.state & CLINUX_EPOLLIN != 0 else {
            // Paused, yet woken: by an error or a hang-up, which would wake every wait; or paused by another connection
            // earlier in this batch, and then what it has to say waits in the socket.
            let isGone = happened & (CLINUX_EPOLLERR | CLINUX_EPOLLHUP) != 0
            return isGone ? .receiveFailed(token, errno: ECONNRESET) : nil
        }
        let wanted = Int(connection.handle.receiveBytes)
        let limit = wanted == 0 ? Self.receiveBytes : min(wanted, buffer.count)
        let room = UnsafeMutableRawBufferPointer(rebasing: buffer[..<limit])
        switch System.receive(connection.handle.fileDescriptor, into: room) {
        case .bytes(let count):
            return .received(token, UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
        case .endOfStream:
            return .endOfStream(token)
        case .wouldBlock:
            return nil
        case .failed(let code):
            return .receiveFailed(token, errno: code)
        }
    }

    private func sendAgain(_ token: IOToken, _ connection: Connection) -> Completion? {
        let handle = connection.handle
        let result = connection.withPendingOutput { output in
            System.send(handle.fileDescriptor, output, endsRecord: handle.endsRecords)
        }
        switch result {
        case .bytes(let count):
            change(&connection.handle, to: connection.handle.state & ~CLINUX_EPOLLOUT)
            return .sent(token, count)
        case .wouldBlock:
            return nil
        case .failed(let code):
            return .sendFailed(token, errno: code)
        }
    }

    private func nextOfListener(_ token: IOToken, _ table: ConnectionTable) -> Completion? {
        guard let listener = table.listener(token), accepts < Self.acceptsPerTurn else {
            advance()
            return nil
        }
        accepts += 1
        switch System.accept(listener.handle.fileDescriptor) {
        case .accepted(let fileDescriptor, let address):
            return .accepted(token, fileDescriptor: fileDescriptor, address)
        case .aborted:
            return nil
        case .wouldBlock:
            advance()
            return nil
        case .exhausted(let code):
            advance()
            return .acceptExhausted(token, errno: code)
        }
    }
}
