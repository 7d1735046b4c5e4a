/// Who is behind a request that proxies have passed on: `X-Forwarded-For`, and `Forwarded` (RFC 7239). Each proxy
/// appends whom it has the request from, so the fields are read from their right end, and only as far as those who
/// wrote there are trusted: what stands further left is what anybody may have sent.
enum Forwarded {
    /// The client of a request that came from `peer`: the rightmost address that is no trusted proxy's. Where a proxy
    /// names none (`unknown`, an obfuscated identifier, garbage), it is that proxy. Nil where the two fields tell of
    /// different clients: a proxy that writes only one of them passes the other on as the client made it up.
    static func client(_ fields: HeaderFields, from peer: SocketAddress, trusting trusted: [CIDR]) -> SocketAddress? {
        guard trusted.contains(peer) else { return peer }
        let plain = follow(fields.listItems(of: "x-forwarded-for"), node, from: peer, trusted)
        let standard = follow(fields.listItems(of: "forwarded"), forNode, from: peer, trusted)
        guard let plain, let standard else { return plain ?? standard ?? peer }
        return plain.withoutPort == standard.withoutPort ? plain : nil
    }

    /// Nil where there is nothing to follow.
    private static func follow(
        _ items: [ArraySlice<UInt8>], _ read: (ArraySlice<UInt8>) -> SocketAddress?, from peer: SocketAddress,
        _ trusted: [CIDR]
    ) -> SocketAddress? {
        guard !items.isEmpty else { return nil }
        var client = peer
        for item in items.reversed() {
            guard trusted.contains(client), let next = read(item) else { break }
            client = next
        }
        return client
    }

    /// The node that `for=192.0.2.43;proto=https` names (RFC 7239 §4). No node holds a comma or a semicolon, so the
    /// element may be cut at them whatever is quoted: a quote that a client left open swallows nothing. What was cut
    /// out of the middle of a quoted text (`host="a,for=192.0.2.43"`) is nobody's element.
    private static func forNode(_ element: ArraySlice<UInt8>) -> SocketAddress? {
        let quote = UInt8(ascii: "\""), backslash = UInt8(ascii: "\\")
        guard element.count(where: { $0 == quote }).isMultiple(of: 2), !element.contains(backslash) else { return nil }
        let values = element.split(separator: UInt8(ascii: ";")).map(HeaderFields.trimmed).filter {
            $0.prefix(4).map(HTTPCharacter.lowercased).elementsEqual("for=".utf8)
        }
        guard values.count == 1, var value = values.first?.dropFirst(4) else { return nil }
        if value.first == quote, value.count >= 2, value.last == quote {
            value = value.dropFirst().dropLast()
        }
        return node(value)
    }

    /// `192.0.2.43`, `192.0.2.43:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711` (RFC 7239 §6); a port may
    /// be obfuscated, and is then 0.
    private static func node(_ bytes: ArraySlice<UInt8>) -> SocketAddress? {
        let text = String(decoding: bytes, as: UTF8.self)
        var host = Substring(text), port: Substring?
        if text.hasPrefix("[") {
            guard let bracket = text.firstIndex(of: "]") else { return nil }
            host = text[..<bracket].dropFirst()
            let rest = text[bracket...].dropFirst()
            guard host.contains(":"), rest.isEmpty || rest.hasPrefix(":") else { return nil }
            port = rest.isEmpty ? nil : rest.dropFirst()
        } else if let colon = text.firstIndex(of: ":"), colon == text.lastIndex(of: ":") {
            host = text[..<colon]
            port = text[colon...].dropFirst()
        }
        guard !host.contains("%"), let address = IPAddress(String(host)) else { return nil }
        guard let port, !port.hasPrefix("_") else { return SocketAddress(address, port: 0) }
        guard port.utf8.allSatisfy(HTTPCharacter.isDigit), let number = UInt16(port) else { return nil }
        return SocketAddress(address, port: number)
    }
}

extension [CIDR] {
    /// Whether one of the ranges holds the address; a Unix socket's is in none.
    func contains(_ address: SocketAddress) -> Bool {
        guard !isEmpty, let address = address.ip else { return false }
        return contains { $0.contains(address) }
    }
}
