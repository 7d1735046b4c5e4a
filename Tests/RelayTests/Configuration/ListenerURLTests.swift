import Relay
import Testing

@Suite struct ListenerURLTests {
    @Test(arguments: [
        ("ws://127.0.0.1:8087", ListenerURL(address: .internet(host: "127.0.0.1", port: 8087))),
        ("ws://127.0.0.1:8087/", ListenerURL(address: .internet(host: "127.0.0.1", port: 8087))),
        ("wss://LocalHost:0", ListenerURL(address: .internet(host: "localhost", port: 0), isSecure: true)),
        ("ws://[::1]:65535", ListenerURL(address: .internet(host: "::1", port: 65535))),
        ("wss://[fe80::1%eth0]:1", ListenerURL(address: .internet(host: "fe80::1%eth0", port: 1), isSecure: true)),
        ("unix:run/relayd.sock", ListenerURL(address: .unix(path: "run/relayd.sock"))),
        ("unix:///run/relayd.sock", ListenerURL(address: .unix(path: "/run/relayd.sock"))),
        ("unix:/r?livecode=1", ListenerURL(address: .unix(path: "/r"), livecode: true)),
        (
            "ws://a:1?auth=x%26y&livecode=1",
            ListenerURL(address: .internet(host: "a", port: 1), token: "x&y", livecode: true)
        ),
        ("ws://a:1?auth=a=b", ListenerURL(address: .internet(host: "a", port: 1), token: "a=b")),
        ("ws://a:1?proxy=v2", ListenerURL(address: .internet(host: "a", port: 1), proxyVersion: .v2)),
        ("unix:/r?proxy=any", ListenerURL(address: .unix(path: "/r"), proxyVersion: .any)),
        (
            "ws://a:1?server=my%20box&port=65535",
            ListenerURL(
                address: .internet(host: "a", port: 1), service: .init(server: .name("my box"), port: 65535))
        ),
        (
            "ws://a:1?port=0&server=7",
            ListenerURL(address: .internet(host: "a", port: 1), service: .init(server: .number(7), port: 0))
        ),
    ])
    func `a listener is read`(_ text: String, _ listener: ListenerURL) throws {
        #expect(try ListenerURL(parsing: text) == listener)
    }

    @Test(arguments: [
        "", "127.0.0.1:8087", "http://127.0.0.1:8087", "WS://127.0.0.1:1", "ws://", "ws://:8087", "ws://127.0.0.1",
        "ws://127.0.0.1:", "ws://127.0.0.1:65536", "ws://127.0.0.1:-1", "ws://127.0.0.1:+1", "ws://127.0.0.1:80x",
        "ws://::1:8087", "ws://[::1:8087", "ws://[::1]8087", "ws://[]:1", "ws://[evil]:1", "ws://a:1/app/x",
        "ws://user@a:1", "ws://a:1#x", "ws://a:1\nx", "ws://a b:1", "unix:", "unix://host/path", "unix:/a\u{0}b",
        "ws://a:1?auth=", "ws://a:1?auth=%zz", "ws://a:1?auth=%4", "ws://a:1?auth=%0a", "ws://a:1?auth=%ff",
        "ws://a:1?auth=x&auth=y", "ws://a:1?livecode=yes", "ws://a:1?livecode", "ws://a:1?colour=red",
        "ws://a:1?proxy", "ws://a:1?proxy=v3", "ws://a:1?proxy=v1&proxy=v1", "ws://a:1?server=box", "ws://a:1?port=1",
        "ws://a:1?server=&port=1", "ws://a:1?server=a&server=a&port=1", "ws://a:1?server=a&port=1&port=1",
        "ws://a:1?server=a&port=65536", "ws://a:1?server=a&port=+1", "ws://a:1?server=%ff&port=1",
        "ws://a:1?server=%0a&port=1",
    ])
    func `what is no listener is refused with one sentence on one line`(_ text: String) throws {
        let error = #expect(throws: ConfigurationError.self) { try ListenerURL(parsing: text) }
        #expect(error?.message.contains("\n") == false)
        #expect(error?.message.hasSuffix(".") == true)
    }

    @Test func `a Unix path that does not fit into an address is refused with both lengths`() {
        let path = String(repeating: "x", count: 108)
        let error = #expect(throws: ConfigurationError.self) { try ListenerURL(parsing: "unix:\(path)") }
        #expect(error?.message.contains("108") == true && error?.message.contains("107") == true)
        #expect(throws: Never.self) { try ListenerURL(parsing: "unix:\(path.dropLast())") }
    }

    @Test func `the token is nowhere in what is printed`() throws {
        let listener = try ListenerURL(parsing: "wss://[::1]:443?auth=sesame&livecode=1")
        #expect(listener.token == "sesame")
        #expect("\(listener)" == "wss://[::1]:443?auth=…&livecode=1")
        #expect(listener.location() == "wss://[::1]:443")
        #expect(listener.location(port: 40000) == "wss://[::1]:40000")
        let others = "ws://a:1?proxy=v1&server=box&port=7"
        #expect(try "\(ListenerURL(parsing: others))" == others)
        for wrong in ["ws://a:1?auth=sesame&auth=sesame", "ws://a:1?auth=sesame&x=1", "ws://a?auth=sesame"] {
            let error = #expect(throws: ConfigurationError.self) { try ListenerURL(parsing: wrong) }
            #expect(error?.message.contains("sesame") == false)
        }
    }
}
