import Glibc
import Relay

/// A channel whose end is a socket, or standard input and output: a stream of bytes. What is read goes into the channel
/// as it comes, what comes out of the channel is written; an end of stream is `end`, a reset is `close`, both ways.
final class LocalEnd: TunnelEnd {
    /// Where bytes are read and written; -1 once it is closed. One descriptor for both, where it is a socket.
    private var input: Int32
    private var output: Int32
    /// The other addresses of a target that is being connected to; nil where none is.
    private var otherAddresses: ArraySlice<ResolvedAddress>?
    private let target: Target?

    private var mayRead = true
    private var mayWrite = true
    /// Reading goes on until the end: the other side has announced it, or the kernel does not tell when there is more.
    private var readsToEnd = false
    private var hasReadEnd = false
    /// Bytes that came out of the channel and were not taken yet.
    private var pending = OutboundBuffer()
    /// Pieces that are lent, to be written together.
    private var pieces: [iovec] = []
    /// What is done when nothing is pending any more.
    private enum Ending {
        case none, shutdown, close
        case abort(String)
    }
    private var ending = Ending.none
    private var lingersUntil: UInt64?

    /// writev(2) takes 1024 (IOV_MAX); so many pieces are more than one receive holds, unless they are tiny.
    private static let piecesAtOnce = 256
    /// How long somebody who reads nothing may take for the last bytes.
    private static let lingerMilliseconds: UInt64 = 30_000

    /// Bytes that the other end may send before it hears that they were taken: what 100 Mbit/s carry in 80 ms. Somebody
    /// who does not read costs so much memory here.
    static let window = 1 << 20

    /// An end that is connected: a socket, or two descriptors.
    init(
        _ state: ChannelState, number: ChannelNumber, link: Link, input: Int32, output: Int32, label: String,
        owner: any TunnelEndOwner, loop: ClientLoop
    ) {
        target = nil
        self.input = input
        self.output = output
        super.init(state, number: number, link: link, label: label, owner: owner, loop: loop)
        keepAlive()
        // Files are always ready, and epoll(7) does not take them.
        if !loop.watch(input, for: self, writing: input == output) { readsToEnd = true }
        if input != output { _ = loop.watch(output, for: self, reading: false, writing: true) }
    }

    /// An end that is offered: it is accepted once one of the addresses of its target is connected.
    init(
        _ state: ChannelState, number: ChannelNumber, link: Link, target: Target, label: String,
        owner: any TunnelEndOwner,
        loop: ClientLoop
    ) {
        self.target = target
        (input, output) = (-1, -1)
        otherAddresses = target.addresses[...]
        super.init(state, number: number, link: link, label: label, owner: owner, loop: loop)
    }

    private var isClosed: Bool { input < 0 && output < 0 && otherAddresses == nil }

    override func ready(_ readiness: Readiness) {
        // Whoever is connected to may have said everything already.
        if readiness.hasEnd { readsToEnd = true }
        if otherAddresses != nil { return connected() }
        if readiness.hasError {
            let code = ResolvedAddress.outcome(input)
            if code != 0 { return reset(System.describe(errno: code)) }
        }
        if readiness.mayWrite {
            mayWrite = true
            writePending()
        }
        if readiness.mayRead {
            mayRead = true
            enqueue()
        }
    }

    // MARK: Connecting

    override func begin() {
        if otherAddresses != nil { connect("it has no address") }
    }

    /// Goes on to the next address.
    private func connect(_ lastFailure: String) {
        guard let address = otherAddresses?.popFirst() else { return refuse(lastFailure) }
        switch address.connect() {
        case .failed(let code): connect(System.describe(errno: code))
        case .started(let descriptor, let isPending):
            (input, output) = (descriptor, descriptor)
            readsToEnd = false
            keepAlive()
            _ = loop.watch(descriptor, for: self, writing: true)
            if !isPending { connected() }
        }
    }

    /// A machine that has vanished is noticed some day, though nobody writes to it.
    private func keepAlive() { System.setOption(input, SOL_SOCKET, SO_KEEPALIVE, 1) }

    private func connected() {
        let code = ResolvedAddress.outcome(input)
        guard code == 0 else {
            Glibc.close(input)
            (input, output) = (-1, -1)
            return connect(System.describe(errno: code))
        }
        otherAddresses = nil
        accept()
        owner.opened(self)
        enqueue()
    }

    private func refuse(_ reason: String) {
        guard let target else { return }
        target.refresh(loop.inbox)
        reject(ChannelClose(502, "\(target): \(reason)"))
        closeLocal("\(target): \(reason)")
    }

    // MARK: Into the channel

    override func opened() {
        owner.opened(self)
        enqueue()
    }

    override func takeTurn(limit: Int) -> Bool {
        let most = min(limit, state.sendable)
        guard mayRead, !hasReadEnd, most > 0, let link else { return false }
        switch link.sendFrames(number, from: input, limit: most) {
        case .bytes(let count, let isFull):
            state.sent(count)
            sentBytes += count
            mayRead = isFull || readsToEnd
        case .wouldBlock: mayRead = false
        case .endOfStream:
            hasReadEnd = true
            end()
            if state.phase == .over { finish(.close) }
        case .failed(let code): reset(System.describe(errno: code))
        }
        return mayRead && !hasReadEnd && state.sendable > 0
    }

    // MARK: Out of the channel

    override func deliver(_ piece: UnsafeRawBufferPointer, isText: Bool, endsMessage: Bool) {
        guard let base = piece.baseAddress, !piece.isEmpty else { return }
        guard mayWrite, pending.isEmpty, otherAddresses == nil else { return pending.append(piece, from: loop.pool) }
        pieces.append(iovec(iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: piece.count))
        if pieces.count == Self.piecesAtOnce { deliveryEnds() }
    }

    override func deliveryEnds() {
        guard !pieces.isEmpty else { return }
        defer { pieces.removeAll(keepingCapacity: true) }
        var taken = 0
        switch pieces.withUnsafeBufferPointer({ Descriptor.write(output, $0) }) {
        case .bytes(let count): taken = count
        case .failed(let code): return reset(System.describe(errno: code))
        }
        var rest = taken
        for piece in pieces {
            if rest < piece.iov_len {
                mayWrite = false
                pending.append(
                    UnsafeRawBufferPointer(start: piece.iov_base + rest, count: piece.iov_len - rest), from: loop.pool)
            }
            rest = max(0, rest - piece.iov_len)
        }
        consume(taken)
    }

    private func writePending() {
        while mayWrite, !pending.isEmpty {
            let result = withUnsafeTemporaryAllocation(of: iovec.self, capacity: 64) { vectors in
                let count = pending.gather(into: vectors)
                return Descriptor.write(output, UnsafeBufferPointer(rebasing: vectors[..<count]))
            }
            switch result {
            case .bytes(0): mayWrite = false
            case .bytes(let count):
                pending.consume(count, to: loop.pool)
                consume(count)
            case .failed(let code): return reset(System.describe(errno: code))
            }
        }
        if pending.isEmpty { carryOut(ending) }
    }

    override func endReceived() { finish(.shutdown) }

    override func over(_ close: ChannelClose?) {
        guard !isClosed else { return }
        if otherAddresses != nil { return closeLocal(close.map { "\($0)" }) }
        guard let close, close.code != 1000 else { return finish(.close) }
        finish(.abort("\(close)"))
    }

    /// Does something once what is pending has been written.
    private func finish(_ ending: Ending) {
        self.ending = ending
        if pending.isEmpty { return carryOut(ending) }
        if case .shutdown = ending { return }
        lingersUntil = loop.now + Self.lingerMilliseconds
        loop.time(self)
    }

    private func carryOut(_ ending: Ending) {
        self.ending = .none
        switch ending {
        case .none: return
        case .shutdown:
            System.shutdownWrite(output)
            if output != input {
                Glibc.close(output)
                output = -1
            }
        case .close: closeLocal(nil)
        case .abort(let reason): closeLocal(reason)
        }
    }

    // MARK: The end

    override var deadline: UInt64? { lingersUntil }
    override func deadlinePassed(_ loop: ClientLoop) { closeLocal("the last bytes were not read") }

    /// The local side broke.
    private func reset(_ reason: String) {
        guard !isClosed else { return }
        // The other end is told that this one has gone; it has no words for a reset.
        close(ChannelClose(1001, reason))
        closeLocal(reason)
    }

    /// Lets go of the local side; with a reset where there is a failure.
    private func closeLocal(_ failure: String?) {
        guard !isClosed else { return }
        otherAddresses = nil
        if lingersUntil != nil { loop.stopTiming(self) }
        if failure != nil { Descriptor.abort(input) }
        if input >= 0 { Glibc.close(input) }
        if output >= 0, output != input { Glibc.close(output) }
        (input, output) = (-1, -1)
        pending.removeAll(to: loop.pool)
        loop.forget(self)
        owner.ended(self, failure)
    }
}
