// What a backend of the event loop offers, whichever it is. The interface is completion-based, so that a backend that
// completes in the kernel (io_uring) and one that is told of readiness (epoll) look the same to the rest of the house:
//
//   add      registers a socket and arms its receive, once; data then comes as `.received` until it is paused
//   pause    stops receiving, though what the kernel has under way may still come; resume arms it again
//   send     starts sending what an OutboundBuffer holds; what could not be sent at once is answered by `.sent` later.
//            Until then the bytes belong to the backend: appending is fine, consuming is not
//   release  forgets the socket, which lives on elsewhere; false where something is under way: its completions come
//            first, then it is asked again
//   close    forgets the socket and closes it; completions that are still to come are swallowed, and output of a send
//            that is pending is kept for as long as the kernel may read it
//   wait     submits what was asked for, and blocks until there are completions or the timeout is over
//   next     the next completion; a buffer that it lends is valid until the following `next` or `wait`

/// Names one registered descriptor in completions. The top byte says what it belongs to, the rest which one.
struct IOToken: Hashable {
    enum Owner: UInt8 {
        case connection = 1
        case listener
        case mailbox
        case signals
    }

    let rawValue: UInt64

    init(rawValue: UInt64) { self.rawValue = rawValue }

    /// A connection's slot in the loop's table; `generation` tells the slot's users apart.
    init(slot: Int, generation: UInt32) {
        rawValue = UInt64(Owner.connection.rawValue) << 56 | UInt64(generation & 0xFF_FFFF) << 32 | UInt64(UInt32(slot))
    }

    init(_ owner: Owner, index: Int = 0) {
        rawValue = UInt64(owner.rawValue) << 56 | UInt64(UInt32(index))
    }

    @inline(__always) var owner: Owner? { Owner(rawValue: UInt8(rawValue >> 56)) }
    @inline(__always) var index: Int { Int(UInt32(truncatingIfNeeded: rawValue)) }
}

/// What happened to a descriptor.
enum Completion {
    /// Bytes arrived. They may be changed in place (frames are unmasked there).
    case received(IOToken, UnsafeMutableRawBufferPointer)
    case endOfStream(IOToken)
    case receiveFailed(IOToken, errno: Int32)
    /// So many bytes of a pending send left.
    case sent(IOToken, Int)
    case sendFailed(IOToken, errno: Int32)
    case accepted(IOToken, fileDescriptor: Int32, SocketAddress)
    /// No descriptors or memory for another connection.
    case acceptExhausted(IOToken, errno: Int32)
    /// The mailbox or the signal descriptor has something to read.
    case readable(IOToken)
}

/// A socket as its backend knows it. Lives in its owner; only the backend changes it.
struct IOHandle {
    let fileDescriptor: Int32
    /// The most that one receive may bring; 0 is what serves one sender best.
    var receiveBytes: UInt32 = 0
    /// What is sent together stays apart from what follows (MSG_EOR, send(2)): a limit of unsent bytes holds only then,
    /// because the kernel asks for it when it begins a buffer, and fills the last one up to 64 KiB before.
    var endsRecords = false
    var token: IOToken
    /// What the backend remembers of it: epoll's event bits, or what io_uring has under way. 0 before `add` and after
    /// `release` or `close`.
    var state: UInt32 = 0

    init(fileDescriptor: Int32, token: IOToken) {
        self.fileDescriptor = fileDescriptor
        self.token = token
    }
}

/// How a send began.
enum SendOutcome {
    /// So many bytes are in the kernel's hands for good.
    case sent(Int)
    /// The socket is full: a `.sent` will follow.
    case pending
    case failed(errno: Int32)
}
