import Testing

@testable import Relay

@Suite struct `Request head` {
    private static let minimal = "GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n"

    private func parse(_ text: String, maximumBytes: Int = 16 << 10) -> RequestHeadParser.Result {
        Array(text.utf8).withUnsafeBytes { RequestHeadParser.parse($0, maximumBytes: maximumBytes) }
    }

    private func status(_ text: String, maximumBytes: Int = 16 << 10) -> Int? {
        guard case .refused(let status, _) = parse(text, maximumBytes: maximumBytes) else { return nil }
        return status.code
    }

    private func parsed(_ text: String) -> RequestHead? {
        guard case .head(let head, let length) = parse(text), length == text.utf8.count else { return nil }
        return head
    }

    @Test func `method, target, path, query and fields are read`() throws {
        let text =
            "GET /app/x?auth=a%20b HTTP/1.1\r\nHost: h:8087\r\nX-One:  a \t\r\nx-two:b\r\nX-ONE: c\r\nEmpty:\r\n\r\n"
        let head = try #require(parsed(text))
        #expect(head.method == "GET" && head.minorVersion == 1)
        #expect(head.target == "/app/x?auth=a%20b" && head.path == "/app/x" && head.query == "auth=a%20b")
        #expect(head.authority == "h:8087")
        #expect(head.values(of: "x-one") == ["a", "c"])
        #expect(head.values(of: "x-on") == [] && head.values(of: "empty") == [""])
        #expect(head.headers.map { "\($0.name)=\($0.value)" } == ["host=h:8087", "x-one=a, c", "x-two=b", "empty="])
    }

    @Test func `a query begins at the first question mark, a value behind the first colon`() throws {
        let head = try #require(parsed("GET /a?b?c HTTP/1.1\r\nHost: a:1\r\nX: \t \r\nx:a:b: c\r\n\r\n"))
        #expect(head.path == "/a" && head.query == "b?c" && head.values(of: "x") == ["", "a:b: c"])
        #expect(head.headers.map { "\($0.name)=\($0.value)" } == ["host=a:1", "x=, a:b: c"])
        #expect(parsed("GET /a? HTTP/1.1\r\nHost: a\r\n\r\n")?.query == "")
    }

    @Test func `what follows the head is not part of it`() {
        guard case .head(_, let length) = parse(Self.minimal + "GET /second HTTP/1.1\r\n\r\n") else {
            Issue.record("no head")
            return
        }
        #expect(length == Self.minimal.utf8.count)
    }

    @Test func `case 38: a head is incomplete at every place but its end, whole or in pieces`() {
        let bytes = Array(Self.minimal.utf8)
        for count in 0...bytes.count {
            switch bytes[..<count].withUnsafeBytes({ RequestHeadParser.parse($0, maximumBytes: 1 << 14) }) {
            case .incomplete: #expect(count < bytes.count)
            case .head(_, let length): #expect(count == bytes.count && length == count)
            case .refused(_, let reason): Issue.record("refused at \(count): \(reason)")
            }
        }
    }

    @Test(arguments: [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    ])
    func `case 30: a missing, doubled or impossible Host is refused`(_ text: String) {
        #expect(status(text) == 400)
    }

    @Test(arguments: ["a", "a.b:80", "127.0.0.1:8087", "[::1]", "[::1]:8087", "[::ffff:1.2.3.4]:1", "a:", "x_y"])
    func `every ordinary Host is taken`(_ host: String) {
        #expect(parsed("GET / HTTP/1.1\r\nHost: \(host)\r\n\r\n")?.authority == host)
    }

    @Test(arguments: [
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(Y): 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\u{E9}: 1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{1}b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{7F}b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{E9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1x\r\nHost: a\r\n\r\n",
        "GET / HTTP/11\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
    ])
    func `case 31: what could be understood in two ways is refused, whole or byte by byte`(_ text: String) {
        #expect(status(text) == 400)
        let bytes = Array(text.utf8)
        for count in 0...bytes.count {
            switch bytes[..<count].withUnsafeBytes({ RequestHeadParser.parse($0, maximumBytes: 1 << 14) }) {
            case .incomplete: continue
            case .refused(let status, _):
                #expect(status == .badRequest)
                return
            case .head:
                Issue.record("accepted")
                return
            }
        }
        Issue.record("still incomplete")
    }

    @Test(arguments: [
        "Content-Length: 0\r\nContent-Length: 0", "Content-Length: +0", "Content-Length: ", "Content-Length: 0, 0",
        "Content-Length: -1", "Transfer-Encoding: identity", "Content-Length: 0\r\nTransfer-Encoding: chunked",
    ])
    func `case 32: a body whose length is not clear is refused`(_ field: String) {
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\n\(field)\r\n\r\n") == 400)
    }

    @Test(arguments: ["Content-Length: 0", "Content-Length: 5", "transfer-encoding:\tchunked"])
    func `case 32: a body may be announced`(_ field: String) {
        #expect(parsed("GET / HTTP/1.1\r\nHost: a\r\n\(field)\r\n\r\n") != nil)
    }

    @Test(arguments: [
        (1, "", true), (1, "Connection: close", false), (1, "Connection: x, Close", false), (1, "Connection: x", true),
        (0, "", false), (0, "Connection: Keep-Alive", true), (0, "Connection: close", false),
    ])
    func `a connection goes on as its version and the Connection field say`(minor: Int, field: String, goesOn: Bool) {
        let lines = field.isEmpty ? "" : field + "\r\n"
        #expect(parsed("GET / HTTP/1.\(minor)\r\nHost: a\r\n\(lines)\r\n")?.keepsAlive == goesOn)
    }

    @Test(arguments: [
        ("Upgrade: WebSocket", true), ("Upgrade: h2c, websocket", true), ("Upgrade: h2c\r\nUpgrade: websocket", true),
        ("Upgrade: h2c", false), ("Upgrade: websockets", false), ("X: websocket", false),
    ])
    func `a head asks for a WebSocket in its Upgrade field`(field: String, asks: Bool) {
        #expect(parsed("GET / HTTP/1.1\r\nHost: a\r\n\(field)\r\n\r\n")?.asksForWebSocket == asks)
    }

    @Test func `case 33: a head, a header count or a request line beyond the limits is refused`() {
        let big = String(repeating: "x", count: 65536)
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\nX: \(big)\r\n\r\n") == 431)
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\nX: \(big)") == 431)
        #expect(status("GET /\(big) HTTP/1.1\r\nHost: a\r\n\r\n") == 414)
        #expect(status("GET /\(big)") == 414)
        let many = String(repeating: "A: b\r\n", count: 5000)
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\n\(many)\r\n") == 431)
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\n\(many)", maximumBytes: 1 << 20) == 431)
    }

    @Test func `the limits are met exactly`() {
        let ninetyNine = String(repeating: "A: b\r\n", count: 99)
        #expect(parsed("GET / HTTP/1.1\r\nHost: a\r\n\(ninetyNine)\r\n") != nil)
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\n\(ninetyNine)A: b\r\n\r\n") == 431)
        let line = "GET /" + String(repeating: "x", count: 8192 - 14) + " HTTP/1.1"
        #expect(line.utf8.count == 8192)
        #expect(parsed(line + "\r\nHost: a\r\n\r\n")?.path == String(line.dropFirst(4).dropLast(9)))
        #expect(status("GET /x" + line.dropFirst(5) + "\r\nHost: a\r\n\r\n") == 414)
        let size = Self.minimal.utf8.count
        if case .head = parse(Self.minimal, maximumBytes: size) {} else { Issue.record("refused at the limit") }
        #expect(status(Self.minimal, maximumBytes: size - 1) == 431)
    }

    @Test func `case 34: what is no HTTP is refused at its first bytes`() {
        #expect([0x16, 0x03, 0x01].withUnsafeBytes { self.isRefused($0) })
        #expect(status("\u{16}") == 400)
        #expect(status("PRI * HTTP/2.0\r\n") == 400)
        #expect(status("{\"instruction\":") == 400)
        #expect(status(String(repeating: "A", count: 33)) == 400)
        #expect(status("CONNECT a:443 HTTP/1.1\r\n") == 400)
        #expect(status("OPTIONS * HTTP/1.1\r\n") == 400)
        #expect(status("GET / HTTP/3.0\r\n") == 505)
    }

    private func isRefused(_ bytes: UnsafeRawBufferPointer) -> Bool {
        if case .refused = RequestHeadParser.parse(bytes, maximumBytes: 100) { true } else { false }
    }

    @Test func `the absolute form names host, path and query`() throws {
        let head = try #require(parsed("GET WS://b.example:1/app/x?y HTTP/1.1\r\nHost: a\r\n\r\n"))
        #expect(head.authority == "b.example:1" && head.path == "/app/x" && head.query == "y")
        #expect(parsed("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n")?.path == "/")
        let bare = try #require(parsed("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n"))
        #expect(bare.query == "q" && bare.path == "/" && bare.target == "http://b?q" && bare.authority == "b")
        #expect(status("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n") == 400)
        #expect(status("GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n") == 400)
    }

    @Test func `HTTP 1.0 needs no Host`() {
        #expect(parsed("GET /healthz HTTP/1.0\r\n\r\n")?.minorVersion == 0)
    }

    @Test func `seeded noise in a good head never traps`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("request heads: seed \(seed)")
        var random = SplitMix64(seed: seed)
        let good = Array("GET /app/x?auth=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nX: y\r\n\r\n".utf8)
        var complete = 0
        for _ in 0..<5000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...2, using: &random) {
                let index = Int.random(in: 0..<bytes.count, using: &random)
                bytes[index] =
                    Bool.random(using: &random)
                    ? UInt8.random(in: 0...255, using: &random) : bytes[(index + 1) % bytes.count]
            }
            let whole = bytes.withUnsafeBytes { RequestHeadParser.parse($0, maximumBytes: 1 << 14) }
            if case .head(let head, let length) = whole {
                complete += 1
                #expect(length <= bytes.count && head.path.utf8.first == UInt8(ascii: "/"), "seed \(seed)")
            }
        }
        #expect(complete > 0, "seed \(seed)")
    }
}
