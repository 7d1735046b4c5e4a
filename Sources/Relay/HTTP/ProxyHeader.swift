/// The header with which a proxy says whose connection it passes on, before TLS and before HTTP: the PROXY protocol of
/// HAProxy (doc/proxy-protocol.txt), a line of text in version 1 (§2.1), a binary block in version 2 (§2.2).
package struct ProxyHeader: Hashable, Sendable {
    /// What a listener asks for.
    package enum Version: String, CaseIterable, Sendable { case v1, v2, any }

    /// Who the client is; nil where the proxy speaks for itself (LOCAL) or cannot say (UNKNOWN, Unix sockets).
    let source: SocketAddress?

    /// What may be wrong, as the log says it.
    enum Problem: String, Sendable {
        case absent = "it does not begin with the PROXY header that the listener asks for"
        case malformed = "the PROXY header is malformed"
        case tooLong = "the PROXY header is too long"
        case repeated = "a second PROXY header follows the first"
        case incomplete = "the PROXY header did not arrive whole"
        case untrusted = "the peer is none of the trusted proxies: what its PROXY header says is ignored"
    }

    enum Result: Equatable {
        case incomplete
        /// The header is the first `length` bytes.
        case header(ProxyHeader, length: Int)
        case refused(Problem)
    }

    /// The longest line, its CRLF included (§2.1).
    static let maximumLineBytes = 107
    /// The longest block of version 2. Addresses take 232 bytes at most; the rest is for type-length-value fields,
    /// which are skipped. HAProxy's own fill some hundred bytes, a client certificate's name among them.
    static let maximumBlockBytes = 4 << 10

    private static let linePrefix = Array("PROXY ".utf8)
    private static let signature: [UInt8] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ]

    /// Reads the header at the beginning of what a connection has sent so far.
    static func parse(_ bytes: UnsafeRawBufferPointer, _ version: Version) -> Result {
        let result: Result
        if version != .v2, agrees(bytes, with: linePrefix) {
            result = parseLine(bytes)
        } else if version != .v1, agrees(bytes, with: signature) {
            result = parseBlock(bytes)
        } else {
            return .refused(.absent)
        }
        guard case .header(_, let length) = result else { return result }
        let rest = UnsafeRawBufferPointer(rebasing: bytes[length...])
        return rest.starts(with: linePrefix) || rest.starts(with: signature) ? .refused(.repeated) : result
    }

    /// Whether what has arrived may be, or become, something that begins with `prefix`.
    private static func agrees(_ bytes: UnsafeRawBufferPointer, with prefix: [UInt8]) -> Bool {
        bytes.prefix(prefix.count).elementsEqual(prefix.prefix(bytes.count))
    }

    // MARK: Version 1

    /// `PROXY TCP4 192.0.2.1 198.51.100.1 4711 443` and CRLF; behind `PROXY UNKNOWN` anything may stand.
    private static func parseLine(_ bytes: UnsafeRawBufferPointer) -> Result {
        guard let end = bytes.prefix(maximumLineBytes - 1).firstIndex(of: 0x0D) else {
            return bytes.count < maximumLineBytes ? .incomplete : .refused(.tooLong)
        }
        guard end + 1 < bytes.count else { return .incomplete }
        guard bytes[end + 1] == 0x0A else { return .refused(.malformed) }
        // Cut as bytes: in a text a blank and a combining mark behind it are one character, and no blank.
        let fields = bytes[..<end].split(separator: 0x20, omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
        if fields[1] == "UNKNOWN" { return .header(ProxyHeader(source: nil), length: end + 2) }
        guard fields.count == 6, fields[1] == "TCP4" || fields[1] == "TCP6",
            let address = address(fields[2], fields[1]), let port = port(fields[4]),
            self.address(fields[3], fields[1]) != nil, self.port(fields[5]) != nil
        else { return .refused(.malformed) }
        return .header(ProxyHeader(source: SocketAddress(address, port: port)), length: end + 2)
    }

    private static func address(_ text: String, _ family: String) -> IPAddress? {
        guard text.utf8.allSatisfy({ $0 != 0 && $0 != UInt8(ascii: "%") }) else { return nil }
        return text.contains(":") == (family == "TCP6") ? IPAddress(text) : nil
    }

    /// Digits without leading zeros.
    private static func port(_ text: String) -> UInt16? {
        guard text.utf8.allSatisfy(HTTPCharacter.isDigit), text == "0" || text.first != "0" else { return nil }
        return UInt16(text)
    }

    // MARK: Version 2

    /// Signature, version and command, family and transport, length, addresses, type-length-value fields.
    private static func parseBlock(_ bytes: UnsafeRawBufferPointer) -> Result {
        guard bytes.count >= 16 else { return .incomplete }
        let (command, family, transport) = (bytes[12], bytes[13] >> 4, bytes[13] & 0xF)
        let length = 16 + Int(bytes[14]) << 8 + Int(bytes[15])
        guard length <= maximumBlockBytes else { return .refused(.tooLong) }
        let source: SocketAddress?
        switch (command, family, transport) {
        case (0x20, _, _):
            source = nil
        case (0x21, 0...3, 0...2):
            // Of IPv4, IPv6 and Unix sockets: two addresses, and two ports but for the last.
            guard length - 16 >= [0, 12, 36, 216][Int(family)] else { return .refused(.malformed) }
            guard bytes.count >= length else { return .incomplete }
            source =
                switch (family, transport) {
                case (1, 1...2): address(bytes[16..<20], port: bytes[24..<26])
                case (2, 1...2): address(bytes[16..<32], port: bytes[48..<50])
                default: nil
                }
        default:
            return .refused(.malformed)
        }
        guard bytes.count >= length else { return .incomplete }
        return .header(ProxyHeader(source: source), length: length)
    }

    private static func address(
        _ address: Slice<UnsafeRawBufferPointer>, port: Slice<UnsafeRawBufferPointer>
    ) -> SocketAddress {
        SocketAddress(IPAddress(networkOrder: address), port: port.reduce(0) { $0 << 8 | UInt16($1) })
    }
}
