internal import CLinux
internal import Glibc

/// The address of a peer, as 16 bytes and a port: IPv4 as its IPv6 mapping, a Unix socket as zeros.
package struct SocketAddress: Hashable, Sendable {
    /// The 16 bytes in network order, as two words in host memory order: a hash key, not a number.
    let high: UInt64
    let low: UInt64
    package let port: UInt16
    private let kind: Kind

    private enum Kind: UInt8 { case ipv4, ipv6, unix }

    static let unix = SocketAddress(high: 0, low: 0, port: 0, kind: .unix)

    private init(high: UInt64, low: UInt64, port: UInt16, kind: Kind) {
        self.high = high
        self.low = low
        self.port = port
        self.kind = kind
    }

    init(_ storage: sockaddr_storage) {
        self = withUnsafeBytes(of: storage) { bytes in
            switch Int32(storage.ss_family) {
            case AF_INET:
                let address = bytes.load(as: sockaddr_in.self)
                // ::ffff:a.b.c.d; the words hold network order, so the mapping's 0xffff is at bytes 10 and 11.
                let mapped = UInt64(address.sin_addr.s_addr) << 32 | 0xFFFF_0000
                return SocketAddress(high: 0, low: mapped, port: UInt16(bigEndian: address.sin_port), kind: .ipv4)
            case AF_INET6:
                let address = bytes.load(as: sockaddr_in6.self)
                let words = withUnsafeBytes(of: address.sin6_addr) {
                    ($0.load(as: UInt64.self), $0.load(fromByteOffset: 8, as: UInt64.self))
                }
                let isMapped = words.0 == 0 && words.1 & 0xFFFF_FFFF == 0xFFFF_0000
                return SocketAddress(
                    high: words.0, low: words.1, port: UInt16(bigEndian: address.sin6_port),
                    kind: isMapped ? .ipv4 : .ipv6)
            default:
                return .unix
            }
        }
    }

    init(_ address: IPAddress, port: UInt16) {
        if address.isIPv4 {
            let mapped = UInt64(UInt32(truncatingIfNeeded: address.bits).bigEndian) << 32 | 0xFFFF_0000
            self.init(high: 0, low: mapped, port: port, kind: .ipv4)
        } else {
            let (high, low) = (UInt64(address.bits >> 64), UInt64(truncatingIfNeeded: address.bits))
            self.init(high: high.bigEndian, low: low.bigEndian, port: port, kind: .ipv6)
        }
    }

    /// Without the port; nil on a Unix socket.
    var ip: IPAddress? {
        switch kind {
        case .unix: nil
        case .ipv4: IPAddress(ipv4: UInt32(truncatingIfNeeded: low >> 32).bigEndian)
        case .ipv6: IPAddress(ipv6: UInt128(high.bigEndian) << 64 | UInt128(low.bigEndian))
        }
    }

    package var isInternet: Bool { kind != .unix }

    /// The key under which connections of one address are counted: the port does not count.
    var withoutPort: SocketAddress { SocketAddress(high: high, low: low, port: 0, kind: kind) }

    /// `192.0.2.1`, `2001:db8::1`, or `unix`.
    package var host: String {
        switch kind {
        case .unix:
            return "unix"
        case .ipv4:
            var address = in_addr(s_addr: UInt32(truncatingIfNeeded: low >> 32))
            return Self.print(AF_INET, &address)
        case .ipv6:
            var words = (high, low)
            return Self.print(AF_INET6, &words)
        }
    }

    private static func print(_ family: Int32, _ address: UnsafeRawPointer) -> String {
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(family, address, &text, socklen_t(text.count)) != nil else { return "unknown" }
        return text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }
}
