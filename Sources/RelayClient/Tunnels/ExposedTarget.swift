import Relay

/// Something local that is to be reached through a relay: what it is, and as what.
package struct ExposedTarget {
    let endPoint: EndPoint
    let server: ServerID
    let port: UInt16
    /// Where it speaks WebSocket: messages are kept as they are, instead of bytes.
    let webSocket: RelayURL?

    /// Reads a pair of the command line: `HOST:PORT`, `unix:PATH`, `http://HOST[:PORT]` or
    /// `ws[s]://HOST[:PORT][/PATH]`, and `NAME[:PORT]`.
    package init(_ target: String, as name: String) throws(ClientFailure) {
        if let scheme = Self.scheme(of: target), scheme == "ws" || scheme == "wss" {
            guard let url = try? RelayURL(parsing: target), case .internet(_, let port) = url.endPoint else {
                throw .refused(
                    "\"\(printable(target))\" is nothing to expose: a WebSocket service is ws://HOST:PORT/PATH, as in "
                        + "ws://127.0.0.1:9000.")
            }
            (webSocket, endPoint) = (url, url.endPoint)
            (server, self.port) = try Self.serverAndPort(name, defaultPort: port)
            return
        }
        webSocket = nil
        var text = target[...]
        var defaultPort: UInt16?
        if let scheme = Self.scheme(of: target) {
            guard scheme == "http" || scheme == "tcp" else { throw Self.wrongScheme(scheme, target) }
            text = text.dropFirst(scheme.count + 3)
            while text.hasSuffix("/") { text = text.dropLast() }
            if scheme == "http" { defaultPort = 80 }
        }
        guard let endPoint = EndPoint(text, defaultPort: defaultPort) else {
            throw .refused(
                "\"\(printable(target))\" is nothing to expose: it is HOST:PORT, unix:PATH, http://HOST:PORT or "
                    + "ws://HOST:PORT, as in 127.0.0.1:22.")
        }
        self.endPoint = endPoint
        if defaultPort == nil, case .internet(_, let port) = endPoint { defaultPort = port }
        (server, port) = try Self.serverAndPort(name, defaultPort: defaultPort)
    }

    /// The word before `://`.
    private static func scheme(of target: String) -> Substring? {
        let word = target.prefix { $0 != ":" }
        return target.dropFirst(word.count).hasPrefix("://") ? word : nil
    }

    private static func wrongScheme(_ scheme: Substring, _ target: String) -> ClientFailure {
        switch scheme {
        case "https":
            .refused(
                "\"\(printable(target))\" speaks TLS, which a tunnel passes on as it is: expose it as HOST:PORT.")
        default:
            .refused(
                "\"\(printable(target))\" cannot be exposed: relayd does not know \(printable(String(scheme)))://.")
        }
    }

    /// Reads `NAME:PORT`, or `NAME` where there is a default. The last colon counts: a name may hold others.
    static func serverAndPort(
        _ text: String, defaultPort: UInt16? = nil
    ) throws(ClientFailure) -> (ServerID, UInt16) {
        if let colon = text.lastIndex(of: ":"), colon > text.startIndex,
            let port = EndPoint.port(text[text.index(after: colon)...])
        {
            return (ServerID(String(text[..<colon])), port)
        }
        guard !text.isEmpty, !text.contains(":"), let defaultPort else {
            throw .refused(
                "\"\(printable(text))\" names no server and port: it is NAME:PORT with a port from 0 to 65535, as in "
                    + "box:22.")
        }
        return (ServerID(text), defaultPort)
    }
}
