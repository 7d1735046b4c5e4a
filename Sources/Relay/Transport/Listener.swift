internal import CLinux
internal import Glibc
internal import Synchronization

/// What every connection of a listener inherits. Shared by the loops.
final class ListenerSettings: Sendable {
    /// As it is printed: with the port that was bound, without the token.
    let url: String
    let port: Int
    let authToken: String?
    let isLivecode: Bool
    let proxyVersion: ProxyHeader.Version?
    let service: ListenerURL.Service?
    let leavesBearerToScripts: Bool
    /// Whether its token lets relays link themselves.
    let takesLinks: Bool
    /// Whoever may open the Unix socket may do everything: its file is readable by the relay's user only.
    let isAdmin: Bool
    private let tls: TLSHolder?

    /// `boundPort` is the one that the kernel gave; nil on a Unix socket.
    init(_ listener: ListenerURL, boundPort: UInt16?, isAdmin: Bool, tls: TLSContext?) {
        url = listener.location(port: boundPort)
        port = Int(boundPort ?? 0)
        authToken = listener.token
        isLivecode = listener.livecode
        proxyVersion = listener.proxyVersion
        service = listener.service
        leavesBearerToScripts = listener.leavesBearerToScripts
        takesLinks = listener.takesLinks
        // Through a proxy comes whoever the proxy lets in.
        self.isAdmin = isAdmin && listener.proxyVersion == nil
        self.tls = tls.map { TLSHolder($0) }
    }

    /// Stands for the listener of a link that this relay has dialled.
    init(dialled url: String) {
        self.url = url
        (port, authToken, isLivecode, proxyVersion, service, takesLinks) = (0, nil, false, nil, nil, false)
        (leavesBearerToScripts, isAdmin, tls) = (false, false, nil)
    }

    private let problems = Mutex<[ProxyHeader.Problem: Int]>([:])

    /// How often this has been wrong with connections of this listener.
    func count(_ problem: ProxyHeader.Problem) -> Int {
        problems.withLock { problems in
            problems[problem, default: 0] += 1
            return problems[problem, default: 0]
        }
    }

    private final class TLSHolder: Sendable {
        let context: Mutex<TLSContext>
        init(_ context: TLSContext) { self.context = Mutex(context) }
    }

    var isSecure: Bool { tls != nil }

    /// A TLS session with the certificate of this moment; nil on a plain listener.
    func makeSession() -> TLSSession? {
        guard let tls else { return nil }
        let context = tls.context.withLock { $0 }
        return try? TLSSession(server: context)
    }

    /// From now on handshakes get this certificate; sessions that are open keep theirs.
    func replace(_ context: TLSContext) {
        tls?.context.withLock { $0 = context }
    }
}

/// One listening socket of one loop.
final class Listener {
    let settings: ListenerSettings
    var handle: IOHandle

    init(fileDescriptor: Int32, settings: ListenerSettings) {
        self.settings = settings
        handle = IOHandle(fileDescriptor: fileDescriptor, token: IOToken(.listener))
    }
}

/// Makes listening sockets.
package enum Binding {
    /// As many connections may wait for accept(2) as the kernel allows; it cuts this down to net.core.somaxconn.
    private static let backlog: Int32 = 4096

    /// `count` sockets that share one TCP address (SO_REUSEPORT), and the port, which the kernel picks where it is 0.
    package static func tcp(
        host: String, port: Int, count: Int
    ) throws(StartError) -> (descriptors: [Int32], port: Int) {
        var address = try resolve(host: host, port: port)
        // With SO_REUSEPORT another relay of the same user could take the port without an error, and each would get a
        // part of the connections. A first socket without it tells that the port is in use.
        let probe = try open(address, host: host, port: port, reusesPort: false)
        let boundPort = Int(System.localAddress(probe)?.port ?? 0)
        System.close(probe)
        address.port = boundPort
        var descriptors: [Int32] = []
        for _ in 0..<count {
            descriptors.append(try open(address, host: host, port: boundPort, reusesPort: true))
        }
        return (descriptors, boundPort)
    }

    /// A Unix socket that only this user can connect to. A file that nobody listens on any more is replaced.
    package static func unix(path: String) throws(StartError) -> Int32 {
        var address = sockaddr_un()
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw StartError("cannot listen on unix:\(path): the path is longer than 107 bytes")
        }
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let descriptor = socket(
            AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        guard descriptor >= 0 else { throw StartError("cannot make a socket: \(System.describe(errno: errno))") }
        let length = socklen_t(MemoryLayout<sockaddr_un>.size)
        func withAddress(_ body: (UnsafePointer<sockaddr>) -> Int32) -> Int32 {
            withUnsafeBytes(of: &address) { body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self)) }
        }
        var status = stat()
        if lstat(path, &status) == 0 {
            let isSocket = status.st_mode & S_IFMT == S_IFSOCK
            if !isSocket || withAddress({ connect(descriptor, $0, length) }) == 0 || errno != ECONNREFUSED {
                System.close(descriptor)
                throw StartError("cannot listen on unix:\(path): the file exists and is in use")
            }
            unlink(path)
        }
        // The file gets the socket's mode (unix(7)), so nobody can connect between bind and a later chmod.
        fchmod(descriptor, 0o600)
        let code = withAddress { bind(descriptor, $0, length) }
        guard code == 0, listen(descriptor, backlog) == 0 else {
            let reason = System.describe(errno: errno)
            System.close(descriptor)
            throw StartError("cannot listen on unix:\(path): \(reason)")
        }
        return descriptor
    }

    private struct Address {
        var storage: sockaddr_storage
        var length: socklen_t
        var family: Int32

        var port: Int {
            get { 0 }
            set {
                // sin_port and sin6_port are both the two bytes behind the family.
                withUnsafeMutableBytes(of: &storage) {
                    $0.storeBytes(of: UInt16(newValue).bigEndian, toByteOffset: 2, as: UInt16.self)
                }
            }
        }
    }

    private static func resolve(host: String, port: Int) throws(StartError) -> Address {
        var hints = addrinfo()
        hints.ai_flags = AI_PASSIVE
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var result: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, String(port), &hints, &result)
        guard code == 0, let first = result else {
            throw StartError("cannot listen on \(host): \(String(cString: gai_strerror(code)))")
        }
        defer { freeaddrinfo(result) }
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) {
            $0.copyBytes(
                from: UnsafeRawBufferPointer(start: first.pointee.ai_addr, count: Int(first.pointee.ai_addrlen)))
        }
        return Address(storage: storage, length: first.pointee.ai_addrlen, family: first.pointee.ai_family)
    }

    private static func open(
        _ address: Address, host: String, port: Int, reusesPort: Bool
    ) throws(StartError) -> Int32 {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(address.family, type, 0)
        guard descriptor >= 0 else { throw StartError("cannot make a socket: \(System.describe(errno: errno))") }
        System.setOption(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
        // Connections inherit it: small messages leave at once, since the loop batches.
        System.setOption(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        if reusesPort { System.setOption(descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
        if address.family == AF_INET6 { System.setOption(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1) }
        let code = withUnsafeBytes(of: address.storage) {
            bind(descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), address.length)
        }
        guard code == 0, listen(descriptor, backlog) == 0 else {
            let reason = errno == EADDRINUSE ? "the port is in use" : System.describe(errno: errno)
            System.close(descriptor)
            throw StartError("cannot listen on \(host):\(port): \(reason)")
        }
        return descriptor
    }
}
