internal import CLinux
import Glibc
import Relay

/// One thread that moves bytes between connections to relays and what is local: sockets of tunnels, or channels that a
/// program reads and writes. Everything that it holds belongs to it.
///
/// A turn: wait; tell what is ready; do what other threads have left; look at the clock; then each link reads, lets its
/// channels send in turns, and sends all that in one call.
final class ClientLoop {
    let inbox = Inbox()
    let pool = ChunkPool()
    /// Where links receive, and tunnels read: with 256 KiB at once, reading and sending took a fifth less CPU time than
    /// with 64 KiB.
    let receiveBuffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 64)
    /// Where links decrypt what they received.
    let plaintextBuffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 64)
    var maskingKeys = MaskingKeys()
    /// Milliseconds of the monotonic clock at the beginning of this turn.
    private(set) var now = System.monotonicMilliseconds()

    private let epoll: Int32
    private let events = UnsafeMutableBufferPointer<epoll_event>.allocate(capacity: 512)
    private var places: [Watched?] = []
    private var generations: [UInt32] = []
    private var freePlaces: [Int] = []
    private var timed: [Watched] = []
    private(set) var links: [Link] = []
    private var sessions: [Session] = []
    private(set) var isStopping = false

    /// How long `stop` waits for the relays' goodbyes.
    private static let stopMilliseconds: UInt64 = 1000

    init() {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        precondition(epoll >= 0, "cannot make an epoll descriptor")
        var event = clinux_epoll_event(CLINUX_EPOLLIN, Self.inboxToken)
        _ = epoll_ctl(epoll, EPOLL_CTL_ADD, inbox.fileDescriptor, &event)
    }

    deinit {
        receiveBuffer.deallocate()
        plaintextBuffer.deallocate()
        events.deallocate()
        close(epoll)
    }

    // MARK: What is watched

    private static let inboxToken = UInt64.max

    /// Watches a descriptor, which stays its owner's; closing it is enough to end that. False where it is none that
    /// can be waited for, as a file is.
    func watch(_ descriptor: Int32, for watched: Watched, reading: Bool = true, writing: Bool = false) -> Bool {
        let place = watched.place ?? takePlace(watched)
        let interest =
            (reading ? CLINUX_EPOLLIN | CLINUX_EPOLLRDHUP : 0) | (writing ? CLINUX_EPOLLOUT : 0) | CLINUX_EPOLLET
        var event = clinux_epoll_event(interest, UInt64(generations[place]) << 32 | UInt64(place))
        return epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0
    }

    private func takePlace(_ watched: Watched) -> Int {
        let place = freePlaces.popLast() ?? places.count
        if place == places.count {
            places.append(nil)
            generations.append(0)
        }
        places[place] = watched
        watched.place = place
        return place
    }

    /// Forgets something whose descriptors are closed; what was told of it in this turn reaches nobody.
    func forget(_ watched: Watched) {
        guard let place = watched.place else { return }
        watched.place = nil
        places[place] = nil
        generations[place] &+= 1
        freePlaces.append(place)
    }

    /// Asks for the deadline of `watched` in every turn from now on.
    func time(_ watched: Watched) { timed.append(watched) }
    func stopTiming(_ watched: Watched) { timed.removeAll { $0 === watched } }

    /// Sessions that are not over.
    func add(_ session: Session) {
        sessions.append(session)
        time(session)
    }
    func remove(_ session: Session) {
        sessions.removeAll { $0 === session }
        stopTiming(session)
    }

    func add(_ link: Link) { links.append(link) }
    func remove(_ link: Link) { links.removeAll { $0 === link } }

    // MARK: Turns

    /// Runs until `stop`.
    func run() {
        while !isStopping { turn(timeout: timeout()) }
        let end = now + Self.stopMilliseconds
        while now < end, !links.isEmpty { turn(timeout: Int32(clamping: end - now)) }
        for link in links { link.disconnect() }
        for work in inbox.close() { work(self) }
    }

    /// Ends every session, and `run` once the relays have answered.
    func stop() {
        isStopping = true
        for session in sessions { session.end(Self.stopped) }
    }

    static var stopped: ClientFailure { .refused("The connection to the relay was closed by this program.") }

    private func timeout() -> Int32 {
        if links.contains(where: \.hasWork) { return 0 }
        guard let next = timed.lazy.compactMap(\.deadline).min() else { return -1 }
        let time = System.monotonicMilliseconds()
        return next > time ? Int32(clamping: next - time) : 0
    }

    private func turn(timeout: Int32) {
        let count = epoll_wait(epoll, events.baseAddress, Int32(events.count), timeout)
        now = System.monotonicMilliseconds()
        for index in 0..<max(0, Int(count)) {
            // SAFETY: epoll_wait filled the first `count` of them.
            let token = clinux_epoll_token(events.baseAddress! + index)
            if token == Self.inboxToken {
                for work in inbox.take() { work(self) }
                continue
            }
            let place = Int(UInt32(truncatingIfNeeded: token))
            guard generations[place] == UInt32(token >> 32), let watched = places[place] else { continue }
            watched.ready(Readiness(events: events[index].events))
        }
        for watched in timed where watched.deadline.map({ $0 <= now }) ?? false { watched.deadlinePassed(self) }
        for link in links { link.turn() }
    }
}
