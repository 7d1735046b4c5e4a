internal import CLinux

/// What happened to a descriptor since the loop looked last (epoll(7), edge-triggered: whoever is told remembers it
/// until a call says otherwise).
struct Readiness {
    fileprivate let events: UInt32

    init(events: UInt32) { self.events = events }

    /// There may be something to read, the end included.
    var mayRead: Bool { events & (CLINUX_EPOLLIN | CLINUX_EPOLLRDHUP | CLINUX_EPOLLHUP | CLINUX_EPOLLERR) != 0 }
    var mayWrite: Bool { events & (CLINUX_EPOLLOUT | CLINUX_EPOLLHUP | CLINUX_EPOLLERR) != 0 }
    /// The other side has sent its last byte: reading goes on to the end, however short a read was.
    var hasEnd: Bool { events & (CLINUX_EPOLLRDHUP | CLINUX_EPOLLHUP | CLINUX_EPOLLERR) != 0 }
    var hasError: Bool { events & CLINUX_EPOLLERR != 0 }
}

/// Something that a `ClientLoop` watches. Belongs to the loop's thread.
class Watched {
    /// Where the loop finds it; nil while it is not watched.
    final var place: Int?

    /// One of its descriptors is ready.
    func ready(_ readiness: Readiness) {}

    /// When `deadlinePassed` is to be called, in milliseconds of the monotonic clock; nil for never. Only asked of what
    /// `ClientLoop.time` was told of.
    var deadline: UInt64? { nil }
    func deadlinePassed(_ loop: ClientLoop) {}
}
