/// Decides whether a request may become a WebSocket (RFC 6455 §4.2.1). Who may connect is somebody else's question.
package enum WebSocketUpgrade {
    enum Evaluation: Sendable {
        /// `key` is the client's Sec-WebSocket-Key, 24 bytes of base64. `subprotocols` are what it offered, in its
        /// order, without the item `bearer.TOKEN`, whose token is `bearerToken`.
        case accept(key: [UInt8], subprotocols: [String], bearerToken: String?)
        case refuse(HTTPStatus, headers: [(String, String)], reason: String)
    }

    /// Appended to the key before it is hashed with SHA-1; base64 of the digest is Sec-WebSocket-Accept (§1.3).
    package static let acceptGUID: StaticString = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

    private static let bearerPrefix = "bearer."

    static func evaluate(_ head: RequestHead) -> Evaluation {
        guard head.method == "GET" else {
            return .refuse(.methodNotAllowed, headers: [("Allow", "GET")], reason: "A WebSocket is opened with GET.")
        }
        let upgrades = head.fields.listItems(of: "upgrade")
        guard upgrades.contains(where: { equals($0, "websocket") }) else {
            return .refuse(
                .upgradeRequired, headers: [("Upgrade", "websocket")], reason: "This path is for WebSocket connections."
            )
        }
        guard head.minorVersion >= 1 else { return refuse("A WebSocket needs HTTP/1.1.") }
        // So that no byte behind the head can be anything but a frame.
        guard head.framing == .length(0) else { return refuse("The request for a WebSocket has no body.") }
        guard upgrades.allSatisfy({ $0.allSatisfy { HTTPCharacter.isToken($0) || $0 == UInt8(ascii: "/") } }) else {
            return refuse("The Upgrade field is malformed.")
        }
        let options = head.fields.listItems(of: "connection")
        guard options.allSatisfy({ HTTPCharacter.isToken($0) }), options.contains(where: { equals($0, "upgrade") })
        else {
            return refuse("The Connection field does not say Upgrade.")
        }
        let versions = head.fields.rawValues(of: "sec-websocket-version")
        guard versions.count == 1, versions[0].elementsEqual("13".utf8) else {
            return .refuse(
                .upgradeRequired, headers: [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
                reason: "The only WebSocket version here is 13.")
        }
        let keys = head.fields.rawValues(of: "sec-websocket-key")
        guard keys.count == 1, isKey(keys[0]) else {
            return refuse("Sec-WebSocket-Key is not one value of 16 bytes in base64.")
        }
        guard head.fields.listItems(of: "sec-websocket-extensions").count <= 100, extensionsAreWellFormed(head) else {
            return refuse("The Sec-WebSocket-Extensions field is malformed.")
        }
        return evaluateSubprotocols(head, key: Array(keys[0]))
    }

    private static func evaluateSubprotocols(_ head: RequestHead, key: [UInt8]) -> Evaluation {
        var offered: [String] = []
        var bearerToken: String?
        for item in head.fields.listItems(of: "sec-websocket-protocol") {
            guard HTTPCharacter.isToken(item) else { return refuse("A subprotocol is not a token.") }
            let name = String(decoding: item, as: UTF8.self)
            if name.hasPrefix(bearerPrefix) {
                guard bearerToken == nil else { return refuse("Two bearer tokens are offered as subprotocols.") }
                bearerToken = String(name.dropFirst(bearerPrefix.count))
                continue
            }
            guard !offered.contains(name) else { return refuse("A subprotocol is offered twice.") }
            guard offered.count < 100 else { return refuse("More than 100 subprotocols are offered.") }
            offered.append(name)
        }
        return .accept(key: key, subprotocols: offered, bearerToken: bearerToken)
    }

    private static func refuse(_ reason: String) -> Evaluation { .refuse(.badRequest, headers: [], reason: reason) }

    private static func equals(_ bytes: ArraySlice<UInt8>, _ lowercase: String) -> Bool {
        bytes.lazy.map(HTTPCharacter.lowercased).elementsEqual(lowercase.utf8)
    }

    /// 16 bytes in base64: 22 characters that carry them, two that pad.
    private static func isKey(_ value: ArraySlice<UInt8>) -> Bool {
        value.count == 24 && value.suffix(2).elementsEqual("==".utf8)
            && value.dropLast(2).allSatisfy { Base64.value(of: $0) != nil }
    }

    /// No extension is ever agreed to, but a field that cannot be read fails the handshake (RFC 6455 §9.1):
    /// `token *( ";" token [ "=" ( token | quoted-token ) ] )`, in a list.
    private static func extensionsAreWellFormed(_ head: RequestHead) -> Bool {
        head.fields.listItems(of: "sec-websocket-extensions").allSatisfy { item in
            let parts = item.split(separator: UInt8(ascii: ";"), omittingEmptySubsequences: false).map(
                HeaderFields.trimmed)
            guard HTTPCharacter.isToken(parts[0]) else { return false }
            return parts.dropFirst().allSatisfy { parameter in
                guard let equals = parameter.firstIndex(of: UInt8(ascii: "=")) else {
                    return HTTPCharacter.isToken(parameter)
                }
                var value = parameter[(equals + 1)...]
                if value.count >= 2, value.first == UInt8(ascii: "\""), value.last == UInt8(ascii: "\"") {
                    value = value.dropFirst().dropLast()
                }
                return HTTPCharacter.isToken(parameter[..<equals]) && HTTPCharacter.isToken(value)
            }
        }
    }
}

/// Writes the response that turns a connection into a WebSocket (RFC 6455 §4.2.2).
enum UpgradeResponse {
    /// `accept` is Sec-WebSocket-Accept; `subprotocol` one that the client offered. No extension is agreed to.
    static func encode(accept: String, subprotocol: String?) -> [UInt8] {
        var bytes = Array("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".utf8)
        HTTPResponse.append("Sec-WebSocket-Accept", accept, to: &bytes)
        if let subprotocol, HTTPCharacter.isToken(subprotocol.utf8) {
            HTTPResponse.append("Sec-WebSocket-Protocol", subprotocol, to: &bytes)
        }
        bytes += "\r\n".utf8
        return bytes
    }
}
