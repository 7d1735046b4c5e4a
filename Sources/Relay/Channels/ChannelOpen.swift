/// What an `open` frame says, in JSON: which server and port, and what its sender grants the other end.
struct ChannelOpen: Equatable {
    var server: ServerID
    var port: UInt16
    /// Bytes that the server may send at first; nil: the default of the protocol.
    var credit: Int?
    /// What only an open that comes over a link says: whose it is, and the relays that it has passed.
    var remoteAddress: String?
    var metadata: String?
    var via: String?

    /// The credit of an `open` that names none (DESIGN §7).
    static let defaultCredit = 256 << 10

    /// Reads what a client sends; a sentence where it cannot be read. Members that are not known are ignored.
    static func parse(_ json: UnsafeRawBufferPointer) -> Result<ChannelOpen, Malformed> {
        guard UTF8Validator.isValid(json) else { return .failure(Malformed("an open is not valid UTF-8")) }
        var members = Members()
        do { try members.read(json) } catch { return .failure(Malformed("an open is no valid JSON object")) }
        guard let server = members.server else { return .failure(Malformed("an open names no server")) }
        guard let port = members.port.flatMap(UInt16.init(exactly:)) else {
            return .failure(Malformed("an open names no port from 0 to 65535"))
        }
        var open = ChannelOpen(server: server, port: port)
        open.remoteAddress = members.remoteAddress
        open.metadata = members.metadata
        open.via = members.via
        if members.hasCredit {
            guard let credit = members.credit, (0...Int64(UInt32.max)).contains(credit) else {
                return .failure(Malformed("the credit of an open is no number of 32 bits"))
            }
            open.credit = Int(credit)
        }
        return .success(open)
    }

    struct Malformed: Error, Equatable {
        let reason: String
        init(_ reason: String) { self.reason = reason }
    }

    /// Writes what a server is sent. `metadata` is JSON text; `via` are the relays that were passed, for a link.
    static func encode(
        server: ServerID, port: UInt16, remoteAddress: String, metadata: String?, credit: Int, ticket: String,
        via: [RelayID] = []
    ) -> [UInt8] {
        var json = Array(#"{"server":"#.utf8)
        server.write(into: &json)
        json.append(contentsOf: #","port":\#(port),"remoteAddress":"#.utf8)
        JSONString.write(remoteAddress, into: &json)
        json.append(contentsOf: #","metadata":\#(metadata ?? "null"),"credit":\#(credit),"ticket":"\#(ticket)""#.utf8)
        if !via.isEmpty {
            json.append(contentsOf: #","via":"\#(via.map(\.description).joined(separator: ","))""#.utf8)
        }
        json.append(UInt8(ascii: "}"))
        return json
    }
}

private struct Members {
    /// An IPv6 address with a zone is shorter.
    private static let maximumAddressBytes = 64
    var server: ServerID?
    var port: Int64?
    var credit: Int64?
    var hasCredit = false
    var remoteAddress: String?
    var metadata: String?
    var via: String?

    mutating func read(_ bytes: UnsafeRawBufferPointer) throws(JSONScanner.Problem) {
        var scanner = JSONScanner(bytes)
        scanner.skipWhitespace()
        try scanner.expect(UInt8(ascii: "{"))
        scanner.skipWhitespace()
        if !scanner.skip(UInt8(ascii: "}")) {
            while true {
                try readMember(&scanner, bytes)
                scanner.skipWhitespace()
                guard scanner.skip(UInt8(ascii: ",")) else { break }
                scanner.skipWhitespace()
            }
            try scanner.expect(UInt8(ascii: "}"))
        }
        scanner.skipWhitespace()
        guard scanner.next == nil else { throw .unexpectedByte }
    }

    private mutating func readMember(
        _ scanner: inout JSONScanner, _ bytes: UnsafeRawBufferPointer
    ) throws(JSONScanner.Problem) {
        let key = try scanner.string()
        try scanner.skipColon()
        let start = scanner.position
        let kind = try scanner.kind()
        var text = key
        if kind == .string { text = try scanner.string() } else { try scanner.skipValue(depth: 1) }
        let number = kind == .number ? Int64(String(decoding: bytes[start..<scanner.position], as: UTF8.self)) : nil
        if key.equals("server", in: bytes) {
            server = number.map(ServerID.number)
            if kind == .string {
                let name = String(decoding: text.decoded(in: bytes), as: UTF8.self)
                server = (1...ServerID.maximumNameBytes).contains(name.utf8.count) ? .name(name) : nil
            }
        } else if key.equals("port", in: bytes) {
            port = number
        } else if key.equals("credit", in: bytes) {
            hasCredit = kind != .null
            credit = number
        } else if key.equals("metadata", in: bytes) {
            metadata = kind == .null ? nil : String(decoding: bytes[start..<scanner.position], as: UTF8.self)
        } else if kind == .string, key.equals("remoteAddress", in: bytes) {
            remoteAddress = String(decoding: text.decoded(in: bytes).prefix(Self.maximumAddressBytes), as: UTF8.self)
        } else if kind == .string, key.equals("via", in: bytes) {
            via = String(decoding: text.decoded(in: bytes), as: UTF8.self)
        }
    }
}
