import Testing

@testable import Relay

@Suite struct `WebSocket upgrade` {
    private static let good: [(String, String)] = [
        ("Host", "relay.example"), ("Upgrade", "websocket"), ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13"),
    ]

    /// The good request with some fields changed (nil takes one away) and some lines added.
    private func evaluate(
        _ changes: [String: String?] = [:], adding lines: [String] = [], method: String = "GET", version: String = "1.1"
    ) -> WebSocketUpgrade.Evaluation? {
        var text = "\(method) / HTTP/\(version)\r\n"
        for (name, value) in Self.good {
            let value: String? = changes.keys.contains(name) ? changes[name]! : value
            if let value { text += "\(name): \(value)\r\n" }
        }
        text += lines.map { $0 + "\r\n" }.joined() + "\r\n"
        guard
            case .head(let head, _) = Array(text.utf8).withUnsafeBytes({
                RequestHeadParser.parse($0, maximumBytes: 1 << 14)
            })
        else { return nil }
        return WebSocketUpgrade.evaluate(head)
    }

    private func status(_ evaluation: WebSocketUpgrade.Evaluation?) -> Int? {
        switch evaluation {
        case .refuse(let status, _, _): status.code
        case .accept: 101
        case nil: nil
        }
    }

    @Test func `the request of RFC 6455 section 1.2 is accepted`() {
        let lines = ["Origin: http://example.com", "Sec-WebSocket-Protocol: chat, superchat"]
        guard case .accept(let key, let subprotocols, let bearer) = evaluate(adding: lines) else {
            Issue.record("refused")
            return
        }
        #expect(key == Array("dGhlIHNhbXBsZSBub25jZQ==".utf8))
        #expect(subprotocols == ["chat", "superchat"] && bearer == nil)
    }

    @Test func `lists and letter case are read as HTTP has them`() {
        #expect(status(evaluate(["Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"])) == 101)
        #expect(
            status(
                evaluate(["Upgrade": "h2c, websocket", "Connection": "keep-alive"], adding: ["Connection: upgrade"]))
                == 101)
        #expect(status(evaluate(["Upgrade": "h2c/1, websocket"])) == 101)
    }

    @Test func `case 30: a request that is no valid upgrade is never answered with 101`() {
        #expect(status(evaluate(["Upgrade": nil])) == 426)
        #expect(status(evaluate(["Upgrade": "websockets"])) == 426)
        #expect(status(evaluate(["Upgrade": "web socket, websocket"])) == 400)
        #expect(status(evaluate(["Connection": nil])) == 400)
        #expect(status(evaluate(["Connection": "close"])) == 400)
        #expect(status(evaluate(["Sec-WebSocket-Key": nil])) == 400)
        #expect(status(evaluate(["Sec-WebSocket-Version": nil])) == 426)
        #expect(status(evaluate(["Sec-WebSocket-Version": "99"])) == 426)
        #expect(status(evaluate(["Sec-WebSocket-Version": "13, 8"])) == 426)
        #expect(status(evaluate(adding: ["Sec-WebSocket-Version: 13"])) == 426)
        #expect(status(evaluate(adding: ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])) == 400)
        #expect(status(evaluate(method: "POST")) == 405)
        #expect(status(evaluate(method: "get")) == 405)
        #expect(status(evaluate(version: "1.0")) == 400)
    }

    @Test(arguments: [
        "", "short", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQAA", "dGhlIHNhbXBsZSBub25jZ===",
        "dGhlIHNhbXBsZSBub25j-Q==", "dGhlIHNhbXBsZSBub25jZQ== x",
    ])
    func `case 30: a key that is not 16 bytes in base64 is refused`(_ key: String) {
        #expect(status(evaluate(["Sec-WebSocket-Key": key])) == 400)
    }

    @Test func `refusals say what would be right`() {
        guard case .refuse(_, let headers, _) = evaluate(["Sec-WebSocket-Version": "99"]) else {
            Issue.record("accepted")
            return
        }
        #expect(headers.contains { $0 == ("Sec-WebSocket-Version", "13") })
        guard case .refuse(_, let allowed, _) = evaluate(method: "DELETE") else {
            Issue.record("accepted")
            return
        }
        #expect(allowed.contains { $0 == ("Allow", "GET") })
    }

    @Test func `case 36: 100 subprotocols pass, duplicates and what is no token do not`() {
        let hundred = (0..<100).map { "p\($0)" }.joined(separator: ", ")
        #expect(status(evaluate(adding: ["Sec-WebSocket-Protocol: \(hundred)"])) == 101)
        #expect(status(evaluate(adding: ["Sec-WebSocket-Protocol: \(hundred), one-more"])) == 400)
        #expect(status(evaluate(adding: ["Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Protocol: a"])) == 400)
        #expect(status(evaluate(adding: ["Sec-WebSocket-Protocol: a b"])) == 400)
        #expect(status(evaluate(adding: ["Sec-WebSocket-Protocol: a;b"])) == 400)
    }

    @Test func `a bearer token among the subprotocols is set apart`() {
        let lines = ["Sec-WebSocket-Protocol: relay.v1, bearer.s3cr3t", "Sec-WebSocket-Protocol: livecode.v0"]
        guard case .accept(_, let subprotocols, let bearer) = evaluate(adding: lines) else {
            Issue.record("refused")
            return
        }
        #expect(subprotocols == ["relay.v1", "livecode.v0"] && bearer == "s3cr3t")
        #expect(status(evaluate(adding: ["Sec-WebSocket-Protocol: bearer.a, bearer.b"])) == 400)
    }

    @Test(arguments: [
        ("permessage-deflate", 101), ("permessage-deflate; client_max_window_bits=99", 101), ("x; a=\"b\"; a, y", 101),
        ("x;", 400), ("x; =1", 400), ("x; a=", 400), ("x y", 400), ("x; a=\"b", 400), (";", 400), ("", 101),
    ])
    func `case 37: extensions are ignored, and refused only where they cannot be read`(_ value: String, _ expected: Int)
    {
        #expect(status(evaluate(adding: ["Sec-WebSocket-Extensions: \(value)"])) == expected)
    }

    @Test func `case 37: a flood of extension offers is refused`() {
        let offers = String(repeating: "x, ", count: 101)
        #expect(status(evaluate(adding: ["Sec-WebSocket-Extensions: \(offers)"])) == 400)
    }

    @Test func `the 101 is what RFC 6455 section 1.3 shows`() {
        let text = String(
            decoding: UpgradeResponse.encode(accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", subprotocol: "chat"), as: UTF8.self
        )
        #expect(
            text == "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n")
        let injected = String(
            decoding: UpgradeResponse.encode(accept: "x", subprotocol: "a\r\nSet-Cookie: b"), as: UTF8.self)
        #expect(!injected.contains("Cookie"))
    }
}

@Suite struct `HTTP responses` {
    @Test func `a response has a length and says that it closes`() {
        let text = String(
            decoding: HTTPResponse.encode(.notFound, date: "D", headers: [("X", "y")], body: "né\n", close: true),
            as: UTF8.self)
        #expect(
            text
                == "HTTP/1.1 404 Not Found\r\nDate: D\r\nX: y\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
                + "Content-Length: 4\r\n\r\nné\n")
        let open = String(
            decoding: HTTPResponse.encode(.ok, date: "D", headers: [], body: "", close: false), as: UTF8.self)
        #expect(!open.contains("Connection") && open.hasSuffix("Content-Length: 0\r\n\r\n"))
    }

    @Test(
        arguments: [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"), (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"), (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"), (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (1_735_689_600, "Wed, 01 Jan 2025 00:00:00 GMT"), (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"), (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
            (-950_400, "Sun, 21 Dec 1969 00:00:00 GMT"),
        ] as [(Int64, String)])
    func `a date is written as RFC 9110 has it`(second: Int64, text: String) {
        var date = HTTPDate()
        #expect(date.text(at: second) == text && date.text(at: second) == text)
        #expect(date.text(at: second + 86_400) != text)
    }

    @Test func `an Upgrade field is named in Connection`() {
        let text = String(
            decoding: HTTPResponse.encode(
                .upgradeRequired, date: "D", headers: [("Upgrade", "websocket")], body: "", close: true),
            as: UTF8.self)
        #expect(text.contains("\r\nConnection: close, Upgrade\r\n"))
    }

    @Test func `case 40: nothing that a value holds begins a line of its own`() {
        let headers = [("Retry-After", "5\r\nSet-Cookie: a=b"), ("Bad Name", "x"), ("X\r\nY", "z")]
        let text = String(
            decoding: HTTPResponse.encode(.forbidden, date: "D", headers: headers, body: "", close: true), as: UTF8.self
        )
        #expect(text.contains("Retry-After: 5Set-Cookie: a=b\r\n"))
        #expect(!text.contains("Bad Name") && !text.contains("\nY") && !text.contains("\nSet-Cookie"))
    }

    @Test func `a number that is no final status becomes 500`() {
        #expect(
            HTTPStatus(code: 101).code == 500 && HTTPStatus(code: -1).code == 500 && HTTPStatus(code: 600).code == 500)
        #expect(
            HTTPStatus(code: 403).description == "403 Forbidden"
                && HTTPStatus(code: 499).description == "499 Client Error")
    }

    @Test func `base64 has the examples of RFC 4648 section 10`() {
        let examples = [
            "": "", "f": "Zg==", "fo": "Zm8=", "foo": "Zm9v", "foob": "Zm9vYg==", "fooba": "Zm9vYmE=",
            "foobar": "Zm9vYmFy",
        ]
        for (plain, encoded) in examples { #expect(Base64.encode(Array(plain.utf8)) == encoded) }
        #expect(Base64.encode([0xFB, 0xFF, 0xBF]) == "+/+/")
    }
}

@Suite struct `Client handshake` {
    private func parse(_ text: String, maximumBytes: Int = 1 << 14) -> ResponseHeadParser.Result {
        Array(text.utf8).withUnsafeBytes { ResponseHeadParser.parse($0, maximumBytes: maximumBytes) }
    }

    @Test func `the relay accepts the request that its own client writes`() {
        let bytes = ClientHandshake.encodeRequest(
            target: "/app/x?y=\r\nz", host: "a:1", key: "dGhlIHNhbXBsZSBub25jZQ==", subprotocols: ["relay.v1"],
            headers: [("Authorization", "Bearer a\r\nX: y")])
        guard
            case .head(let head, let length) = bytes.withUnsafeBytes({
                RequestHeadParser.parse($0, maximumBytes: 1 << 14)
            })
        else {
            Issue.record("refused")
            return
        }
        #expect(length == bytes.count && head.target == "/app/x?y=z" && head.values(of: "x").isEmpty)
        guard case .accept(_, let subprotocols, _) = WebSocketUpgrade.evaluate(head) else {
            Issue.record("refused")
            return
        }
        #expect(subprotocols == ["relay.v1"])
    }

    @Test func `the client accepts the 101 that the relay writes, at every split`() {
        let bytes = UpgradeResponse.encode(accept: "abc=", subprotocol: nil)
        for count in 0..<bytes.count {
            guard case .incomplete = bytes[..<count].withUnsafeBytes({ ResponseHeadParser.parse($0) }) else {
                Issue.record("at \(count)")
                return
            }
        }
        guard case .head(let head, let length) = bytes.withUnsafeBytes({ ResponseHeadParser.parse($0) }) else {
            Issue.record("refused")
            return
        }
        #expect(length == bytes.count && head.status == 101)
        #expect(head.isUpgrade(accept: "abc=") && !head.isUpgrade(accept: "abd="))
    }

    @Test func `refusals are read with status and fields`() {
        let bytes = HTTPResponse.encode(
            .upgradeRequired, date: "D", headers: [("Sec-WebSocket-Version", "13")], body: "no", close: true)
        guard case .head(let head, let length) = bytes.withUnsafeBytes({ ResponseHeadParser.parse($0) }) else {
            Issue.record("refused")
            return
        }
        #expect(head.status == 426 && head.values(of: "sec-websocket-version") == ["13"] && length == bytes.count - 2)
    }

    @Test(arguments: [
        "SSH-2.0-x", "HTTP/2", "HTTP/1.1 99 x\r\n\r\n", "HTTP/1.1 101\n\n", "HTTP/1.1  200 x\r\n\r\n",
        "HTTP/1.1 2000\r\n\r\n", "HTTP/1.1 101 x\r\n y\r\n\r\n",
    ])
    func `an answer that is not HTTP is refused`(_ text: String) {
        guard case .refused = parse(text) else {
            Issue.record("\(text) is taken")
            return
        }
    }

    @Test func `an answer that never ends is refused at its limit`() {
        guard case .refused = parse("HTTP/1.1 200 OK\r\nX: " + String(repeating: "y", count: 200), maximumBytes: 100)
        else {
            Issue.record("taken")
            return
        }
    }
}
