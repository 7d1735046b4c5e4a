import Glibc

/// A connected socket. Non-blocking underneath; every operation waits with poll(2), for at most as long as it is told.
final class SocketStream {
    enum ReadResult {
        /// At least one byte.
        case bytes(Int)
        case endOfStream
        case timedOut
        case failed(String)
    }

    let fileDescriptor: Int32

    private init(fileDescriptor: Int32) { self.fileDescriptor = fileDescriptor }

    deinit { close(fileDescriptor) }

    /// Connects to a relay, trying each address of its host's.
    static func connect(to url: RelayURL, deadline: Deadline) throws(ClientFailure) -> SocketStream {
        switch url.address {
        case .unix(let path): return try connect(path: path, url: url, deadline: deadline)
        case .internet(let host, let port): return try connect(host: host, port: port, url: url, deadline: deadline)
        }
    }

    private static func connect(
        path: String, url: RelayURL, deadline: Deadline
    ) throws(ClientFailure) -> SocketStream {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { room in
            // RelayURL lets at most 107 bytes through, so the last byte of the 108 stays 0.
            for (index, byte) in path.utf8.prefix(room.count - 1).enumerated() { room[index] = byte }
        }
        let outcome = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                attempt($0, socklen_t(MemoryLayout<sockaddr_un>.size), AF_UNIX, deadline)
            }
        }
        switch outcome {
        case .success(let stream): return stream
        case .failure(let reason): throw unreachable(url, reason.text)
        }
    }

    private static func connect(
        host: String, port: UInt16, url: RelayURL, deadline: Deadline
    ) throws(ClientFailure) -> SocketStream {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, String(port), &hints, &list)
        guard status == 0 else {
            throw unreachable(url, "the name \"\(host)\" does not resolve: \(String(cString: gai_strerror(status)))")
        }
        defer { freeaddrinfo(list) }
        var reason = "the name has no address"
        var next = list
        while let entry = next {
            if let address = entry.pointee.ai_addr {
                switch attempt(address, entry.pointee.ai_addrlen, entry.pointee.ai_family, deadline) {
                case .success(let stream): return stream
                case .failure(let failure): reason = failure.text
                }
            }
            next = entry.pointee.ai_next
        }
        throw unreachable(url, reason)
    }

    private static func unreachable(_ url: RelayURL, _ reason: String) -> ClientFailure {
        .unreachable(
            "Cannot reach a relay at \(url): \(reason). Start one with `relayd serve`, or name another with --to URL.")
    }

    private struct Reason: Error { let text: String }

    private static func attempt(
        _ address: UnsafePointer<sockaddr>, _ length: socklen_t, _ family: Int32, _ deadline: Deadline
    ) -> Result<SocketStream, Reason> {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let descriptor = socket(family, type, 0)
        guard descriptor >= 0 else { return .failure(Reason(text: describe(errno))) }
        let stream = SocketStream(fileDescriptor: descriptor)
        if Glibc.connect(descriptor, address, length) != 0 {
            // A Unix socket whose backlog is full says EAGAIN and would have to be tried again: one attempt is enough.
            guard errno == EINPROGRESS else { return .failure(Reason(text: describe(errno))) }
            guard stream.wait(for: POLLOUT, deadline) else { return .failure(Reason(text: "no answer in time")) }
            var failure: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &failure, &size)
            guard failure == 0 else { return .failure(Reason(text: describe(failure))) }
        }
        if family != AF_UNIX {
            var one: Int32 = 1
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<Int32>.size))
        }
        return .success(stream)
    }

    /// Waits until the socket is ready for `events` (or broken, which the next call reports); false at the deadline.
    func wait(for events: Int32, _ deadline: Deadline) -> Bool {
        while true {
            var poll = pollfd(fd: fileDescriptor, events: Int16(events), revents: 0)
            let count = Glibc.poll(&poll, 1, deadline.pollMilliseconds)
            if count > 0 { return true }
            if count == 0, deadline.hasPassed { return false }
            if count < 0, errno != EINTR { return true }
        }
    }

    /// Reads what is there, waiting for the first byte.
    func read(into buffer: UnsafeMutableRawBufferPointer, deadline: Deadline) -> ReadResult {
        while true {
            let count = recv(fileDescriptor, buffer.baseAddress, buffer.count, 0)
            if count > 0 { return .bytes(count) }
            if count == 0 { return .endOfStream }
            switch errno {
            case EINTR: continue
            case EAGAIN: guard wait(for: POLLIN, deadline) else { return .timedOut }
            default: return .failed(Self.describe(errno))
            }
        }
    }

    /// Writes everything; the reason where it could not.
    func write(_ bytes: UnsafeRawBufferPointer, deadline: Deadline) -> String? {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = send(
                fileDescriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count, Int32(MSG_NOSIGNAL))
            if count >= 0 {
                rest = rest.dropFirst(count)
            } else if errno == EAGAIN {
                guard wait(for: POLLOUT, deadline) else { return "the relay does not read what is sent" }
            } else if errno != EINTR {
                return Self.describe(errno)
            }
        }
        return nil
    }

    static func describe(_ errno: Int32) -> String {
        var text = [CChar](repeating: 0, count: 256)
        // The XSI form: fills `text`.
        guard strerror_r(errno, &text, text.count) == 0 else { return "error \(errno)" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
