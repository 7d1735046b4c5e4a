extension Digest {
    /// What `Sec-WebSocket-Accept` answers to a `Sec-WebSocket-Key`: base64 of SHA-1 of the key and a fixed GUID
    /// (RFC 6455 §4.2.2). It proves that the server understood a WebSocket handshake, nothing else.
    package static func webSocketAccept(key: [UInt8]) -> String {
        let guid = WebSocketUpgrade.acceptGUID.withUTF8Buffer { Array($0) }
        return Base64.encode((key + guid).withUnsafeBytes { sha1($0) })
    }

    /// Two texts, compared without telling where they differ.
    static func constantTimeEqual(_ a: String, _ b: String) -> Bool {
        Array(a.utf8).withUnsafeBytes { a in Array(b.utf8).withUnsafeBytes { b in constantTimeEqual(a, b) } }
    }
}
