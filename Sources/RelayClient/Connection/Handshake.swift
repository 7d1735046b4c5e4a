import Relay

/// The client's side of the opening handshake (RFC 6455 §4.1) over a connected stream.
enum Handshake {
    private static let maximumHeadBytes = 16 << 10

    /// Upgrades the stream; returns the bytes that came behind the relay's answer. The relay must choose `subprotocol`,
    /// or none where that is nil; `credential` goes into the request.
    static func perform(
        over stream: SocketStream, url: RelayURL, subprotocol: String? = nil, credential: String? = nil,
        deadline: Deadline
    ) throws(ClientFailure) -> [UInt8] {
        let key = Base64.encode(SecureRandom.bytes(16))
        let request = ClientHandshake.encodeRequest(
            target: url.target, host: url.hostField, key: key, subprotocols: [subprotocol].compactMap { $0 },
            headers: credential.map { [("Authorization", "Bearer \($0)")] } ?? [])
        if let reason = request.withUnsafeBytes({ stream.write($0, deadline: deadline) }) {
            throw .unreachable("Cannot speak to \(url): \(reason).")
        }
        var received: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let result = received.withUnsafeBytes { ResponseHeadParser.parse($0, maximumBytes: maximumHeadBytes) }
            switch result {
            case .head(let head, let length):
                let rest = Array(received[length...])
                guard head.status == 101 else { throw refusal(head, rest, url) }
                guard head.isUpgrade(accept: Digest.webSocketAccept(key: Array(key.utf8))),
                    subprotocol.map({ [$0] }) ?? [] == head.values(of: "sec-websocket-protocol")
                else {
                    throw notRelay(url, "its answer to the WebSocket handshake is wrong")
                }
                return rest
            case .refused(let reason):
                throw notRelay(url, "\(reason)")
            case .incomplete:
                break
            }
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0, deadline: deadline) }) {
            case .bytes(let count): received.append(contentsOf: buffer[..<count])
            case .timedOut: throw notRelay(url, "it does not answer")
            case .endOfStream: throw notRelay(url, "it closed the connection without an answer")
            case .failed(let reason): throw .unreachable("Cannot speak to \(url): \(reason).")
            }
        }
    }

    private static func notRelay(_ url: RelayURL, _ reason: String) -> ClientFailure {
        .unreachable("What listens at \(url) is not a relay: \(reason).")
    }

    /// A relay, or something before it, said no. The body's first line, if it has come already, says why.
    private static func refusal(_ head: ResponseHeadParser.Head, _ body: [UInt8], _ url: RelayURL) -> ClientFailure {
        let line = String(decoding: body.prefix { $0 != 0x0a && $0 != 0x0d }.prefix(300), as: UTF8.self)
        let said = line.isEmpty ? "" : ", saying \"\(printable(line))\""
        let advice =
            switch head.status {
            case 401: " The listener wants a token: write it into the URL, as in \(url)?auth=TOKEN."
            case 404: " There is no such path or app."
            case 503: " Try again later."
            default: ""
            }
        let sentence = "\(url) refused the connection with HTTP status \(head.status)\(said).\(advice)"
        // What a proxy says when the relay behind it is away, or a relay that has no room, can be otherwise soon.
        return ClientFailure(
            kind: head.status >= 500 ? .unreachable : .refused, description: sentence, status: head.status)
    }
}
