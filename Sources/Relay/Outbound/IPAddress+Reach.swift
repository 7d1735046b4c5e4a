internal import Glibc

// Where an address leads: to this machine, to this network, or to the Internet.
extension IPAddress {
    /// The address and the port of a socket address; nil for another family than the two of IP.
    package static func parts(of address: UnsafeRawPointer, length: Int) -> (address: IPAddress, port: UInt16)? {
        let bytes = UnsafeRawBufferPointer(start: address, count: length)
        guard length >= MemoryLayout<sa_family_t>.size else { return nil }
        switch Int32(bytes.loadUnaligned(as: sa_family_t.self)) {
        case AF_INET where length >= MemoryLayout<sockaddr_in>.size:
            let socket = bytes.loadUnaligned(as: sockaddr_in.self)
            return (IPAddress(ipv4: UInt32(bigEndian: socket.sin_addr.s_addr)), UInt16(bigEndian: socket.sin_port))
        case AF_INET6 where length >= MemoryLayout<sockaddr_in6>.size:
            let socket = bytes.loadUnaligned(as: sockaddr_in6.self)
            var bits: UInt128 = 0
            withUnsafeBytes(of: socket.sin6_addr) { for byte in $0 { bits = bits << 8 | UInt128(byte) } }
            let isMapped = bits >> 32 == 0xffff
            let found = isMapped ? IPAddress(ipv4: UInt32(truncatingIfNeeded: bits)) : IPAddress(ipv6: bits)
            return (found, UInt16(bigEndian: socket.sin6_port))
        default:
            return nil
        }
    }

    package var isLoopback: Bool {
        isIPv4 ? bits >> 24 == 127 : bits == 1
    }

    /// Whether the address is one of the Internet's: of the unicast space, and not in a block with a purpose of its own
    /// (IANA's special-purpose registries, RFC 6890). Blocks that carry an IPv4 address inside (6to4, Teredo, NAT64)
    /// are not public, whatever they carry.
    package var isPublic: Bool {
        if isIPv4 { return !Self.special4.contains { $0.contains(self) } }
        return Self.global6.contains { $0.contains(self) } && !Self.special6.contains { $0.contains(self) }
    }

    private static let special4 = [
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    ].compactMap(CIDR.init)
    private static let global6 = ["2000::/3"].compactMap(CIDR.init)
    private static let special6 = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"].compactMap(CIDR.init)
}
