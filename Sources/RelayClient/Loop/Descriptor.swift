import Glibc

/// Reading and writing what a tunnel has locally: sockets, pipes, terminals and files alike. Descriptors do not block.
enum Descriptor {
    enum ReadResult {
        /// At least one byte; `isFull` where there may be more.
        case bytes(Int, isFull: Bool)
        case endOfStream
        case wouldBlock
        case failed(errno: Int32)
    }

    /// read(2) until it is not interrupted.
    @inline(__always)
    static func read(_ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        while true {
            let count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
            if count > 0 { return .bytes(count, isFull: count == buffer.count) }
            if count == 0 { return .endOfStream }
            switch errno {
            case EINTR: continue
            case EAGAIN: return .wouldBlock
            case let code: return .failed(errno: code)
            }
        }
    }

    enum WriteResult {
        /// So many bytes; perhaps none.
        case bytes(Int)
        case failed(errno: Int32)
    }

    /// writev(2) until it is not interrupted. The process ignores SIGPIPE.
    @inline(__always)
    static func write(_ descriptor: Int32, _ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        while true {
            let count = writev(descriptor, vectors.baseAddress, Int32(vectors.count))
            if count >= 0 { return .bytes(count) }
            switch errno {
            case EINTR: continue
            case EAGAIN: return .bytes(0)
            case let code: return .failed(errno: code)
            }
        }
    }

    /// The next close(2) of a socket resets the connection.
    static func abort(_ descriptor: Int32) {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }
}
