// The one file that touches libc for sockets and clocks: return codes become small enums here, at once.
package import CLinux
internal import Glibc

package enum System {
    package enum ReceiveResult {
        case bytes(Int)
        case endOfStream
        case wouldBlock
        case failed(errno: Int32)
    }

    package enum SendResult {
        case bytes(Int)
        case wouldBlock
        case failed(errno: Int32)
    }

    package enum AcceptResult {
        case accepted(fileDescriptor: Int32, SocketAddress)
        case wouldBlock
        /// This one connection failed before it reached us (accept(2) lists the codes); the next may be fine.
        case aborted
        /// Out of file descriptors or memory: trying again at once would spin.
        case exhausted(errno: Int32)
    }

    /// recv(2) until it is not interrupted.
    @inline(__always)
    package static func receive(_ fileDescriptor: Int32, into buffer: UnsafeMutableRawBufferPointer) -> ReceiveResult {
        while true {
            let count = recv(fileDescriptor, buffer.baseAddress, buffer.count, 0)
            if count > 0 { return .bytes(count) }
            if count == 0 { return .endOfStream }
            switch errno {
            case EINTR: continue
            case EAGAIN: return .wouldBlock
            case let code: return .failed(errno: code)
            }
        }
    }

    /// sendmsg(2) of what waits in `buffer`, without SIGPIPE, until it is not interrupted.
    @inline(__always)
    package static func send(
        _ fileDescriptor: Int32, _ buffer: borrowing OutboundBuffer, endsRecord: Bool = false
    ) -> SendResult {
        let flags = Int32(MSG_NOSIGNAL) | (endsRecord ? Int32(MSG_EOR) : 0)
        let first = buffer.first
        if first.count == buffer.byteCount {
            while true {
                let count = Glibc.send(fileDescriptor, first.baseAddress, first.count, flags)
                if count >= 0 { return .bytes(count) }
                if errno != EINTR { return failure() }
            }
        }
        return sendVectors(fileDescriptor, buffer, flags)
    }

    private static func sendVectors(
        _ fileDescriptor: Int32, _ buffer: borrowing OutboundBuffer, _ flags: Int32
    ) -> SendResult {
        // 64 large chunks are 4 MiB, more than a socket buffer takes at once.
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: 64) { vectors in
            var message = msghdr()
            message.msg_iov = vectors.baseAddress
            message.msg_iovlen = buffer.gather(into: vectors)
            while true {
                let count = sendmsg(fileDescriptor, &message, flags)
                if count >= 0 { return .bytes(count) }
                if errno != EINTR { return failure() }
            }
        }
    }

    private static func failure() -> SendResult {
        errno == EAGAIN ? .wouldBlock : .failed(errno: errno)
    }

    /// accept4(2), non-blocking and close-on-exec; other options come from the listening socket.
    package static func accept(_ listener: Int32) -> AcceptResult {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let fileDescriptor = withUnsafeMutableBytes(of: &storage) { bytes in
            accept4(
                listener, bytes.baseAddress, &length,
                Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue))
        }
        if fileDescriptor >= 0 {
            return .accepted(fileDescriptor: fileDescriptor, SocketAddress(storage))
        }
        switch errno {
        case EAGAIN: return .wouldBlock
        case EMFILE, ENFILE, ENOBUFS, ENOMEM: return .exhausted(errno: errno)
        default: return .aborted
        }
    }

    /// Who is at the other end; nil where the connection is gone already.
    static func peerAddress(_ fileDescriptor: Int32) -> SocketAddress? { address(fileDescriptor, getpeername) }

    /// What the socket is bound to.
    static func localAddress(_ fileDescriptor: Int32) -> SocketAddress? { address(fileDescriptor, getsockname) }

    private static func address(
        _ fileDescriptor: Int32,
        _ ask: (Int32, UnsafeMutablePointer<sockaddr>?, UnsafeMutablePointer<socklen_t>?) -> Int32
    ) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let code = withUnsafeMutableBytes(of: &storage) { bytes in
            ask(fileDescriptor, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
        }
        return code == 0 ? SocketAddress(storage) : nil
    }

    package static func setOption(_ fileDescriptor: Int32, _ level: Int32, _ name: Int32, _ value: Int32) {
        var value = value
        _ = setsockopt(fileDescriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    /// The kernel takes no more as long as it has so much that it has not sent (tcp(7), TCP_NOTSENT_LOWAT): what it has
    /// cannot be overtaken. No matter on other sockets.
    package static func setUnsentLimit(_ fileDescriptor: Int32, bytes: Int32) {
        setOption(fileDescriptor, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, bytes)
    }

    /// No more bytes will be sent; the peer reads end of stream after what was.
    package static func shutdownWrite(_ fileDescriptor: Int32) {
        _ = shutdown(fileDescriptor, Int32(SHUT_WR))
    }

    package static func close(_ fileDescriptor: Int32) {
        // Linux releases the descriptor even when close(2) is interrupted, so it is never retried.
        _ = Glibc.close(fileDescriptor)
    }

    /// What the kernel calls an error, for logs.
    package static func describe(errno code: Int32) -> String {
        var buffer = [CChar](repeating: 0, count: 128)
        return buffer.withUnsafeMutableBufferPointer { text in
            _ = strerror_r(code, text.baseAddress!, text.count)
            return String(cString: text.baseAddress!)
        }
    }

    /// Milliseconds of CLOCK_MONOTONIC: it never steps, whatever the wall clock does.
    package static func monotonicMilliseconds() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
    }

    static func monotonicSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    /// Seconds since 1970.
    static func wallClockSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    /// Raises the soft limit of open files to the hard one, and returns it.
    package static func raiseOpenFileLimit() -> Int {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1024 }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        return Int(clamping: limit.rlim_cur)
    }

    /// Starts a thread; whoever starts it joins it.
    package static func startThread(name: String, _ body: @escaping @Sendable () -> Void) -> pthread_t {
        final class Box {
            let body: @Sendable () -> Void
            let name: String
            init(_ body: @escaping @Sendable () -> Void, _ name: String) {
                self.body = body
                self.name = name
            }
        }
        var thread = pthread_t()
        let box = Unmanaged.passRetained(Box(body, name))
        let code = pthread_create(
            &thread, nil,
            { argument in
                // SAFETY: the one reference that startThread retained for this thread.
                let box = Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue()
                pthread_setname_np(pthread_self(), box.name)
                box.body()
                return nil
            }, box.toOpaque())
        precondition(code == 0, "cannot start a thread: \(describe(errno: code))")
        return thread
    }
}
