import Testing

@testable import RelayClient

@Suite struct RelayURLTests {
    @Test(arguments: [
        ("ws://127.0.0.1:8087", "127.0.0.1:8087", "/"), ("ws://example.com", "example.com", "/"),
        ("wss://example.com/app/x?auth=y", "example.com", "/app/x?auth=y"), ("wss://[::1]:9", "[::1]:9", "/"),
        ("ws://h:1?auth=t", "h:1", "/?auth=t"), ("unix:/run/r?auth=t", "localhost", "/?auth=t"),
    ])
    func `a relay's URL becomes Host and target`(_ text: String, _ host: String, _ target: String) throws {
        let url = try RelayURL(parsing: text)
        #expect(url.hostField == host)
        #expect(url.target == target)
        #expect(!"\(url)".contains("auth"))
    }

    @Test(arguments: [
        "", "127.0.0.1:8087", "http://a", "ws://", "ws://:1", "ws://a:", "ws://a:0", "ws://a:65536", "ws://u@a:1",
        "ws://a:1#f", "unix:", "ws://a b", "ws://a\r\nX: y",
    ])
    func `what is no URL of a relay is refused`(_ text: String) {
        let failure = #expect(throws: ClientFailure.self) { try RelayURL(parsing: text) }
        #expect(failure?.kind == .refused)
        #expect(failure?.description.contains("\n") == false)
    }

    @Test func `an app is a path, and excludes another path`() throws {
        #expect(try RelayURL(parsing: "ws://a:1?auth=t").app("x-1").target == "/app/x-1?auth=t")
        #expect(try RelayURL(parsing: "ws://a:1").app("default").target == "/")
        #expect(throws: ClientFailure.self) { try RelayURL(parsing: "ws://a:1/app/y").app("x") }
        #expect(throws: ClientFailure.self) { try RelayURL(parsing: "ws://a:1").app("x/../y") }
    }

    @Test(arguments: [
        ("ws://h:1", "/s/box?ports=22"), ("ws://h:1/", "/s/box?ports=22"), ("ws://h:1/app/x", "/app/x/s/box?ports=22"),
        ("ws://h:1?auth=t", "/s/box?auth=t&ports=22"), ("unix:/run/r?auth=t", "/s/box?auth=t&ports=22"),
    ])
    func `a server's path comes behind the app's, and its ports behind the token`(_ text: String, _ target: String)
        throws
    {
        #expect(try RelayURL(parsing: text).appending(path: "/s/box", query: "ports=22").target == target)
        #expect(try !RelayURL(parsing: "ws://h:1").appending(path: "/s/box").target.contains("?"))
    }
}
