import Glibc

/// An IPv4 or IPv6 address. IPv4-mapped IPv6 addresses (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2) are the IPv4 address
/// that they carry: a dual-stack listener shows its IPv4 peers that way.
package struct IPAddress: Hashable, Sendable, CustomStringConvertible {
    /// The address in network order; an IPv4 address fills the lowest 32 bits.
    let bits: UInt128
    package let isIPv4: Bool

    var width: Int { isIPv4 ? 32 : 128 }

    /// Reads the usual notations; a zone (`fe80::1%eth0`) is allowed and ignored. Nil for anything else, decimal and
    /// octal forms of IPv4 included.
    package init?(_ text: String) {
        let plain = text.prefix { $0 != "%" }
        var v4 = in_addr()
        if plain.count == text.count, inet_pton(AF_INET, text, &v4) == 1 {
            self.init(ipv4: UInt32(bigEndian: v4.s_addr))
            return
        }
        var v6 = in6_addr()
        guard inet_pton(AF_INET6, String(plain), &v6) == 1 else { return nil }
        self = withUnsafeBytes(of: &v6) { IPAddress(networkOrder: $0) }
    }

    /// From 4 or 16 bytes in network order.
    init(networkOrder bytes: some Collection<UInt8>) {
        let bits = bytes.reduce(UInt128(0)) { $0 << 8 | UInt128($1) }
        if bytes.count == 4 || bits >> 32 == 0xffff {
            self.init(ipv4: UInt32(truncatingIfNeeded: bits))
        } else {
            self.init(ipv6: bits)
        }
    }

    init(ipv4: UInt32) {
        bits = UInt128(ipv4)
        isIPv4 = true
    }

    init(ipv6: UInt128) {
        bits = ipv6
        isIPv4 = false
    }

    package var description: String {
        if isIPv4 {
            return [24, 16, 8, 0].map { String(UInt8(truncatingIfNeeded: bits >> UInt128($0))) }.joined(separator: ".")
        }
        var address = in6_addr()
        withUnsafeMutableBytes(of: &address) { buffer in
            for index in 0..<16 { buffer[index] = UInt8(truncatingIfNeeded: bits >> UInt128(8 * (15 - index))) }
        }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard inet_ntop(AF_INET6, &address, &text, socklen_t(text.count)) != nil else { return "?" }
        return text.withUnsafeBufferPointer { buffer in
            // SAFETY: inet_ntop terminates what it writes; the array is not empty.
            String(cString: buffer.baseAddress!)
        }
    }
}

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`; an address alone is a range of one. An IPv6 range holds no
/// IPv4 address, `::/0` included. Host bits are cleared: `10.1.2.3/8` is `10.0.0.0/8`.
package struct CIDR: Hashable, Sendable, CustomStringConvertible {
    package let network: IPAddress
    package let prefixLength: Int

    /// Nil where the text is no range.
    package init?(_ text: String) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard !text.contains("%"), let address = IPAddress(String(parts[0])) else { return nil }
        var length = address.width
        if parts.count == 2 {
            let digits = parts[1].utf8
            guard (1...3).contains(digits.count), digits.allSatisfy({ (48...57).contains($0) }),
                digits.count == 1 || digits.first != UInt8(ascii: "0"), var given = Int(parts[1])
            else { return nil }
            // A mapped address is written with an IPv6 length: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
            if address.isIPv4, parts[0].contains(":") { given -= 96 }
            guard (0...address.width).contains(given) else { return nil }
            length = given
        }
        prefixLength = length
        let kept = Self.keep(address.bits, length, of: address.width)
        network = address.isIPv4 ? IPAddress(ipv4: UInt32(truncatingIfNeeded: kept)) : IPAddress(ipv6: kept)
    }

    package func contains(_ address: IPAddress) -> Bool {
        address.isIPv4 == network.isIPv4
            && Self.keep(address.bits, prefixLength, of: address.width) == network.bits
    }

    package var description: String { "\(network)/\(prefixLength)" }

    /// The first `length` of `width` bits; the rest is zero. A shift by the whole width gives zero in Swift.
    private static func keep(_ bits: UInt128, _ length: Int, of width: Int) -> UInt128 {
        let shift = UInt128(width - length)
        return (bits >> shift) << shift
    }
}
