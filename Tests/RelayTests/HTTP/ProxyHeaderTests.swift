import Testing

@testable import Relay

@Suite struct ProxyHeaderTests {
    private static let line = Array("PROXY TCP6 2001:db8::7 2001:db8::8 4711 443\r\n".utf8)
    /// 192.0.2.7:4711 to 198.51.100.1:443, and one field of three bytes.
    private static let block: [UInt8] =
        [0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A, 0x21, 0x11, 0x00, 0x0F]
        + [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xBB, 0x04, 0x00, 0x00]

    private func parse(_ bytes: some Sequence<UInt8>, _ version: ProxyHeader.Version = .any) -> ProxyHeader.Result {
        Array(bytes).withUnsafeBytes { ProxyHeader.parse($0, version) }
    }

    @Test(arguments: [(line, "2001:db8::7"), (block, "192.0.2.7")])
    func `a header is whole at its last byte and at none before, and leaves what follows`(
        _ header: [UInt8], _ address: String
    ) throws {
        for count in 0..<header.count { #expect(parse(header.prefix(count)) == .incomplete, "\(count) bytes") }
        let source = SocketAddress(try #require(IPAddress(address)), port: 4711)
        let expected = ProxyHeader.Result.header(ProxyHeader(source: source), length: header.count)
        #expect(parse(header) == expected)
        #expect(parse(header + "GET / HTTP/1.1\r\n".utf8) == expected)
    }

    @Test func `a version that is not asked for is no header, from its first byte on`() {
        #expect(parse(Self.block.prefix(1), .v1) == .refused(.absent))
        #expect(parse(Self.line.prefix(1), .v2) == .refused(.absent))
        #expect(parse("GET / HTTP/1.1\r\n".utf8) == .refused(.absent))
    }

    @Test func `blanks are bytes, whatever character they would begin in a text`() {
        for rest in ["\u{301}", "TCP4 \u{301}192.0.2.7 198.51.100.1 1 2", "\u{200D}UNKNOWN"] {
            #expect(parse("PROXY \(rest)\r\n".utf8) == .refused(.malformed))
        }
    }

    @Test func `a second header behind the first is refused`() {
        for first in [Self.line, Self.block] {
            for second in [Self.line, Self.block] { #expect(parse(first + second) == .refused(.repeated)) }
        }
    }

    @Test func `a line has at most 107 bytes, a block 4 KiB, whatever it announces`() {
        let line = Array("PROXY UNKNOWN ".utf8) + [UInt8](repeating: 0x66, count: 91)
        #expect(parse(line + [0x0D, 0x0A]) == .header(ProxyHeader(source: nil), length: 107))
        #expect(parse(line + [0x66, 0x0D]) == .refused(.tooLong))
        #expect(parse(Self.block.prefix(14) + [0x0F, 0xF1]) == .refused(.tooLong))
        #expect(parse(Self.block.prefix(14) + [0x0F, 0xF0]) == .incomplete)
    }

    @Test func `an address keeps its value on the way to a socket's address and back`() throws {
        for text in ["192.0.2.7", "2001:db8::7", "::1", "255.255.255.255", "ffff::"] {
            let address = try #require(IPAddress(text))
            #expect(SocketAddress(address, port: 1).ip == address)
            #expect(SocketAddress(address, port: 1).host == text)
        }
        #expect(SocketAddress.unix.ip == nil)
    }
}
