import Glibc
import Testing

@testable import Relay

@Suite struct HTTPAllowListTests {
    private func list(_ entries: String...) throws -> HTTPAllowList {
        HTTPAllowList(try entries.map { try HTTPAllowList.Entry(parsing: $0) })
    }

    private func reaches(_ list: HTTPAllowList, _ address: String, _ port: UInt16, as host: String) throws -> Bool {
        guard let host = list.host(host, port: port) else { return false }
        return list.allows(try #require(IPAddress(address)), port: port, for: host)
    }

    @Test func `an empty list refuses everything`() throws {
        let empty = HTTPAllowList()
        for host in ["example.com", "localhost", "127.0.0.1", "8.8.8.8", "::1"] {
            #expect(empty.host(host, port: 80) == nil)
        }
    }

    @Test(
        arguments: [
            ("example.com", "example.com", 80, true), ("example.com", "EXAMPLE.com", 1, true),
            ("Example.COM", "example.com", 1, true), ("example.com", "www.example.com", 80, false),
            ("example.com", "notexample.com", 80, false), ("example.com", "example.com.evil", 80, false),
            ("example.com", "example.com.", 80, false), ("example.com:443", "example.com", 443, true),
            ("example.com:443", "example.com", 80, false), ("*.example.com", "a.example.com", 80, true),
            ("*.example.com", "a.b.example.com", 80, true), ("*.example.com", "example.com", 80, false),
            ("*.example.com", "badexample.com", 80, false), ("*.example.com:8080", "a.example.com", 80, false),
            ("10.0.0.0/8", "10.1.2.3", 80, true), ("10.0.0.0/8", "11.1.2.3", 80, false),
            ("10.0.0.0/8:8080", "10.1.2.3", 80, false), ("10.1.2.3:8080", "10.1.2.3", 8080, true),
            ("::1", "::1", 80, true), ("[::1]:80", "::1", 80, true), ("[::1]:80", "::1", 81, false),
            ("[2001:db8::]/32:80", "2001:db8::7", 80, true), ("127.0.0.1", "::ffff:127.0.0.1", 80, true),
            ("10.0.0.0/8", "example.com", 80, false),
        ] as [(String, String, UInt16, Bool)])
    func `a host is listed or it is not`(entry: String, host: String, port: UInt16, isListed: Bool) throws {
        #expect((try list(entry).host(host, port: port) != nil) == isListed)
    }

    @Test(arguments: [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "2001::1", "::127.0.0.1", "2001:db8::1",
    ])
    func `a name does not lead to an address that is not public`(address: String) throws {
        #expect(try !reaches(try list("example.com"), address, 80, as: "example.com"))
        #expect(try reaches(try list("example.com", address), address, 80, as: "example.com"))
        let otherPort = address.contains(":") ? "[\(address)]:81" : "\(address):81"
        #expect(try !reaches(try list("example.com", otherPort, "1.2.3.4"), address, 80, as: "example.com"))
    }

    @Test(arguments: ["93.184.216.34", "8.8.8.8", "172.32.0.1", "2606:2800:220:1::1", "100.128.0.1", "::ffff:8.8.8.8"])
    func `a name leads to public addresses`(address: String) throws {
        #expect(try reaches(try list("example.com"), address, 80, as: "example.com"))
        #expect(try !reaches(try list("example.com"), address, 80, as: address))
    }

    @Test func `localhost leads to this machine where it is listed by name`() throws {
        for address in ["127.0.0.1", "::1"] {
            #expect(try reaches(try list("localhost"), address, 80, as: "localhost"))
            #expect(try !reaches(try list("localhost"), address, 80, as: address))
            #expect(try !reaches(try list("a.localhost"), address, 80, as: "a.localhost"))
        }
        #expect(try !reaches(try list("localhost:8080"), "127.0.0.1", 80, as: "localhost"))
        #expect(try !reaches(try list("localhost"), "10.0.0.1", 80, as: "localhost"))
    }

    @Test(arguments: [
        "", "*", "*.", "http://example.com", "example.com/", "example.com:", "example.com:0", "example.com:65536",
        "example.com:x", "exa mple.com", "a..b", ".a", "a.", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1",
        "10.0.0.0/33", "*.1.2", "é.example", "user@example.com", "[10.0.0.1]:80",
    ])
    func `what is no entry`(text: String) {
        #expect(throws: ConfigurationError.self) { try HTTPAllowList.Entry(parsing: text) }
    }

    @Test func `the address of a socket is read in both families`() throws {
        var four = sockaddr_in()
        four.sin_family = sa_family_t(AF_INET)
        four.sin_port = UInt16(443).bigEndian
        four.sin_addr.s_addr = UInt32(0xC000_0201).bigEndian
        let first = try #require(withUnsafeBytes(of: four) { IPAddress.parts(of: $0.baseAddress!, length: $0.count) })
        #expect("\(first.address) \(first.port)" == "192.0.2.1 443")
        var six = sockaddr_in6()
        six.sin6_family = sa_family_t(AF_INET6)
        six.sin6_port = UInt16(80).bigEndian
        #expect(inet_pton(AF_INET6, "::ffff:10.0.0.1", &six.sin6_addr) == 1)
        let second = try #require(withUnsafeBytes(of: six) { IPAddress.parts(of: $0.baseAddress!, length: $0.count) })
        #expect("\(second.address) \(second.port)" == "10.0.0.1 80")
        #expect(withUnsafeBytes(of: six) { IPAddress.parts(of: $0.baseAddress!, length: 16) } == nil)
    }
}

@Suite struct ScriptSettingTests {
    @Test func `the last word counts, and values are not printed`() throws {
        var configuration = Configuration()
        try configuration.set("settings", to: ["a=1", "secret=x=y", "a=2", "empty="], from: .flag)
        #expect(configuration.scriptSettings.map { "\($0.name) \($0.value)" } == ["secret x=y", "a 2", "empty "])
        #expect(configuration.printed().contains("secret=…"))
        #expect(!configuration.printed().contains("x=y"))
    }

    @Test(arguments: [
        "", "a", "=1", "1a=2", "a-b=1", "app=x", "callTime=1", "a=" + String(repeating: "x", count: 4_097),
    ])
    func `what is no setting`(text: String) {
        var configuration = Configuration()
        #expect(throws: ConfigurationError.self) { try configuration.set("settings", to: [text], from: .flag) }
    }
}
