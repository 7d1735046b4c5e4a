import CLinux
import Glibc
import Testing

@testable import Relay

@Suite struct SocketAddressTests {
    private func ipv4(_ text: String, port: UInt16 = 0) -> SocketAddress {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        #expect(inet_pton(AF_INET, text, &address.sin_addr) == 1)
        return socketAddress(address)
    }

    private func ipv6(_ text: String, port: UInt16 = 0) -> SocketAddress {
        var address = sockaddr_in6()
        address.sin6_family = sa_family_t(AF_INET6)
        address.sin6_port = port.bigEndian
        #expect(inet_pton(AF_INET6, text, &address.sin6_addr) == 1)
        return socketAddress(address)
    }

    private func socketAddress<Address>(_ address: Address) -> SocketAddress {
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) { target in
            withUnsafeBytes(of: address) { target.copyMemory(from: $0) }
        }
        return SocketAddress(storage)
    }

    @Test(arguments: ["127.0.0.1", "0.0.0.0", "255.255.255.255", "192.0.2.1", "1.2.3.4"])
    func `an IPv4 address prints as it was written`(text: String) {
        let address = ipv4(text, port: 8087)
        #expect(address.host == text)
        #expect(address.port == 8087)
        #expect(address.isInternet)
    }

    @Test(arguments: [
        ("::1", "::1"), ("::", "::"), ("2001:db8::1", "2001:db8::1"), ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::ffff:1.2.3.4", "fe80::ffff:102:304"),
    ])
    func `an IPv6 address prints in its shortest form`(text: String, printed: String) {
        let address = ipv6(text, port: 65_535)
        #expect(address.host == printed)
        #expect(address.port == 65_535)
        #expect(address.isInternet)
    }

    @Test func `a mapped address is the IPv4 address that it maps`() {
        let mapped = ipv6("::ffff:192.0.2.1", port: 80)
        #expect(mapped.host == "192.0.2.1")
        #expect(mapped == ipv4("192.0.2.1", port: 80))
        #expect(mapped.hashValue == ipv4("192.0.2.1", port: 80).hashValue)
    }

    @Test(arguments: ["::192.0.2.1", "::fffe:192.0.2.1", "64:ff9b::192.0.2.1", "1::ffff:192.0.2.1"])
    func `what only looks mapped stays IPv6`(text: String) {
        #expect(ipv6(text) != ipv4("192.0.2.1"))
        #expect(ipv6(text).host.contains(":"))
    }

    @Test func `addresses differ by address and port, and without the port by address alone`() {
        #expect(ipv4("192.0.2.1", port: 1) != ipv4("192.0.2.1", port: 2))
        #expect(ipv4("192.0.2.1", port: 1).withoutPort == ipv4("192.0.2.1", port: 2).withoutPort)
        #expect(ipv4("192.0.2.1").withoutPort != ipv4("192.0.2.2").withoutPort)
        #expect(ipv6("2001:db8::1").withoutPort != ipv6("2001:db8:0:1::1").withoutPort)
        #expect(ipv4("192.0.2.1", port: 1).withoutPort.host == "192.0.2.1")
    }

    @Test func `a Unix socket has no address, and is not the unspecified one`() {
        var storage = sockaddr_storage()
        storage.ss_family = sa_family_t(AF_UNIX)
        let address = SocketAddress(storage)
        #expect(address == .unix)
        #expect(address.host == "unix")
        #expect(!address.isInternet)
        #expect(address.withoutPort == .unix)
        #expect(address != ipv6("::"))
    }

    @Test func `an address that the kernel did not fill in is no Internet address`() {
        #expect(SocketAddress(sockaddr_storage()) == .unix)
    }
}
