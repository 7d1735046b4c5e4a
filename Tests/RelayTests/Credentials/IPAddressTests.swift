import Testing

@testable import Relay

@Suite struct IPAddressTests {
    @Test(arguments: [
        ("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("::ffff:c000:201", "192.0.2.1"),
        ("2001:DB8::0:1", "2001:db8::1"), ("fe80::1%eth0", "fe80::1"), ("::", "::"), ("0.0.0.0", "0.0.0.0"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
    ])
    func `an address prints in its usual form`(text: String, printed: String) throws {
        #expect(try #require(IPAddress(text)).description == printed)
    }

    @Test(arguments: [
        "", "localhost", "127.1", "2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.0.0.1.", "256.0.0.1", "127.0.0.1%lo",
        "127.0.0.1:80", "[::1]", ":::", "1::2::3", "12345::", " ::1", "::1\n", "%", "unix:",
    ])
    func `what is no address`(text: String) {
        #expect(IPAddress(text) == nil)
    }
}

@Suite struct CIDRTests {
    @Test(arguments: [
        ("10.0.0.0/8", "10.0.0.0/8"), ("10.1.2.3/8", "10.0.0.0/8"), ("192.0.2.1", "192.0.2.1/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8:ffff::/32", "2001:db8::/32"), ("::1", "::1/128"), ("::/0", "::/0"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
    ])
    func `a range prints with its host bits cleared, and reads back`(text: String, printed: String) throws {
        let range = try #require(CIDR(text))
        #expect(range.description == printed)
        #expect(CIDR(printed) == range)
    }

    @Test(arguments: [
        "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/8/8", "10/8",
        "::/129", "::ffff:10.0.0.0/95", "fe80::1%eth0/64", "10.0.0.0/1000", "10.0.0.0/ 8", "box/8",
    ])
    func `what is no range`(text: String) {
        #expect(CIDR(text) == nil)
    }

    @Test(arguments: [
        ("10.0.0.0/8", "10.255.0.1", true), ("10.0.0.0/8", "11.0.0.0", false), ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("0.0.0.0/0", "203.0.113.9", true), ("0.0.0.0/0", "::1", false), ("::/0", "::1", true),
        ("::/0", "10.0.0.1", false),
        ("192.0.2.1", "192.0.2.1", true), ("192.0.2.1", "192.0.2.2", false), ("192.0.2.0/31", "192.0.2.1", true),
        ("2001:db8::/33", "2001:db8:7fff::", true), ("2001:db8::/33", "2001:db8:8000::", false), ("::1", "::1", true),
        ("::ffff:10.0.0.0/104", "10.9.9.9", true), ("fe80::/10", "fe80::1%eth0", true),
    ])
    func `membership`(range: String, address: String, expected: Bool) throws {
        #expect(try #require(CIDR(range)).contains(#require(IPAddress(address))) == expected)
    }
}
