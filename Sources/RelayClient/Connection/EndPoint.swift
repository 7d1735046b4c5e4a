import Glibc
import Relay

/// Something on this machine or beyond that takes connections.
package enum EndPoint: Hashable, Sendable, CustomStringConvertible {
    case internet(host: String, port: UInt16)
    case unix(path: String)

    /// Reads `HOST:PORT`, `[IPv6]:PORT` or `unix:PATH`; nil for anything else. Without a port there must be a default.
    package init?(_ text: Substring, defaultPort: UInt16? = nil) {
        if text.hasPrefix("unix:") {
            var path = text.dropFirst(5)
            if path.hasPrefix("///") { path = path.dropFirst(2) }
            // sun_path has 108 bytes, the last of which stays 0 (unix(7)).
            guard (1...107).contains(path.utf8.count) else { return nil }
            self = .unix(path: String(path))
            return
        }
        let host: Substring, afterHost: Substring
        if text.hasPrefix("["), let bracket = text.firstIndex(of: "]") {
            host = text[..<bracket].dropFirst()
            afterHost = text[bracket...].dropFirst()
        } else {
            host = text.prefix { $0 != ":" }
            afterHost = text.dropFirst(host.count)
        }
        guard !host.isEmpty, !host.contains(where: { $0 == "@" || $0 == "/" }) else { return nil }
        if afterHost.isEmpty {
            guard let defaultPort else { return nil }
            self = .internet(host: String(host), port: defaultPort)
            return
        }
        guard afterHost.first == ":", let port = Self.port(afterHost.dropFirst()) else { return nil }
        self = .internet(host: String(host), port: port)
    }

    /// Decimal digits and nothing else; `UInt16.init` would take a sign.
    package static func port(_ text: Substring) -> UInt16? {
        guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return UInt16(text)
    }

    package var description: String {
        switch self {
        case .unix(let path): "unix:\(path)"
        case .internet(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        }
    }

    /// Where a name leads; the reason where it leads nowhere.
    enum Resolution {
        /// At least one.
        case addresses([ResolvedAddress])
        case failed(String)
    }

    /// Asks the system for the addresses; may take as long as the name servers do.
    func resolve() -> Resolution {
        switch self {
        case .unix(let path): return .addresses([ResolvedAddress(path: path)])
        case .internet(let host, let port):
            var hints = addrinfo()
            hints.ai_family = AF_UNSPEC
            hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
            hints.ai_flags = AI_NUMERICSERV
            var list: UnsafeMutablePointer<addrinfo>?
            let status = getaddrinfo(host, String(port), &hints, &list)
            guard status == 0 else {
                return .failed("the name \"\(host)\" does not resolve: \(String(cString: gai_strerror(status)))")
            }
            defer { freeaddrinfo(list) }
            var addresses: [ResolvedAddress] = []
            var next = list
            while let entry = next {
                if let address = entry.pointee.ai_addr {
                    addresses.append(ResolvedAddress(address, length: entry.pointee.ai_addrlen))
                }
                next = entry.pointee.ai_next
            }
            return addresses.isEmpty ? .failed("the name has no address") : .addresses(addresses)
        }
    }
}

/// What connect(2) takes.
struct ResolvedAddress {
    private var storage = sockaddr_storage()
    private let length: socklen_t

    init(_ address: UnsafePointer<sockaddr>, length: socklen_t) {
        self.length = length
        withUnsafeMutableBytes(of: &storage) {
            $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: min(Int(length), $0.count)))
        }
    }

    init(path: String) {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { room in
            // EndPoint lets at most 107 bytes through, so the last byte of the 108 stays 0.
            for (index, byte) in path.utf8.prefix(room.count - 1).enumerated() { room[index] = byte }
        }
        length = socklen_t(MemoryLayout<sockaddr_un>.size)
        withUnsafeMutableBytes(of: &storage) { room in withUnsafeBytes(of: &address) { room.copyMemory(from: $0) } }
    }

    /// What starting a connection came to.
    enum Attempt {
        /// A non-blocking socket; while `isPending`, it becomes writable when it is known how it went.
        case started(Int32, isPending: Bool)
        case failed(errno: Int32)
    }

    /// Makes a socket and starts to connect it. Small writes will not wait for others.
    func connect() -> Attempt {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let descriptor = socket(Int32(storage.ss_family), type, 0)
        guard descriptor >= 0 else { return .failed(errno: errno) }
        if storage.ss_family != AF_UNIX { System.setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
        let code = withUnsafeBytes(of: storage) {
            // sockaddr_storage holds and is aligned for every kind of address (RFC 3493 §3.10).
            Glibc.connect(descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length)
        }
        if code == 0 { return .started(descriptor, isPending: false) }
        // A Unix socket whose backlog is full says EAGAIN and would have to be tried again: one attempt is enough.
        guard errno == EINPROGRESS else {
            let reason = errno
            System.close(descriptor)
            return .failed(errno: reason)
        }
        return .started(descriptor, isPending: true)
    }

    /// How a connection that was pending went: 0, or why it failed (connect(2), EINPROGRESS).
    static func outcome(_ descriptor: Int32) -> Int32 {
        var failure: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &failure, &size)
        return failure
    }
}
