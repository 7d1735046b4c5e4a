/// Where one end of a channel is, for whoever is on another loop.
struct ChannelAddress: Hashable, Sendable {
    let loop: Int
    let connection: ConnectionID
    /// `.connection` (0) on a clean connection, which is an end as a whole; `.script` where a script has dialled.
    let number: ChannelNumber

    /// Whether whoever is on `loop` can call the end. A script's end is always told by mail: it must not be entered
    /// while a script runs.
    func isCallable(on loop: Int) -> Bool { self.loop == loop && number != .script }
}

/// What one end of a channel tells the other. On one loop it is a call, between loops a message.
enum ChannelEvent: Sendable {
    /// The server is being asked, at this address: whoever gives up says so there.
    case asked(at: ChannelAddress)
    /// The server has accepted: so many bytes may be sent to it, at this address.
    case accept(credit: Int, from: ChannelAddress, ChannelRecord)
    case reject(code: UInt16, reason: String)
    case data([UInt8], isText: Bool, more: Bool)
    /// So much of the data has been read, where it went from loop to loop.
    case read(bytes: Int)
    case credit(Int)
    case end
    case close(CloseCode, reason: String)
}

/// A client's wish for a channel, on its way to the app.
struct ChannelRequest: Sendable {
    let client: ConnectionID
    /// The client's number; `.connection` of one that is clean.
    let number: ChannelNumber
    var server: ServerID
    var port: UInt16
    /// What the client grants the server at first.
    let credit: Int
    /// Where it comes over a link, which it is the other relay's to allow.
    var origin: Origin?

    struct Origin: Sendable {
        /// The client's.
        let remoteAddress: String
        /// JSON text.
        let metadata: String?
        /// The relays that it has passed.
        let via: [RelayID]
    }
}

/// A channel that the app allows, on its way to the server's loop.
struct ChannelOpening: Sendable {
    let client: ChannelAddress
    let serverConnection: ConnectionID
    let credit: Int
    /// JSON text.
    let metadata: String?
    /// The relays that it has passed, this one included.
    let via: [RelayID]
    let record: ChannelRecord
}

/// Names an open that waits for its server, for the server's dedicated connection: which end it is, and a secret that
/// only its `open` frame has told. In hexadecimal: connection, number, secret.
struct ChannelTicket {
    let connection: ConnectionID
    let number: ChannelNumber
    let secret: [UInt8]

    static let secretBytes = 16

    var text: String {
        var bytes: [UInt8] = []
        withUnsafeBytes(of: connection.rawValue.bigEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: number.rawValue.bigEndian) { bytes.append(contentsOf: $0) }
        return TextEncoding.hex(bytes + secret)
    }

    init(connection: ConnectionID, number: ChannelNumber, secret: [UInt8]) {
        self.connection = connection
        self.number = number
        self.secret = secret
    }

    init?(_ text: String) {
        let digits = Array(text.utf8)
        guard digits.count == 2 * (12 + Self.secretBytes) else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let high = HTTPCharacter.hexadecimal(digits[index]),
                let low = HTTPCharacter.hexadecimal(digits[index + 1])
            else { return nil }
            bytes.append(high << 4 | low)
        }
        connection = ConnectionID(rawValue: bytes[..<8].reduce(0) { $0 << 8 | UInt64($1) })
        number = ChannelNumber(bytes[8..<12].reduce(0) { $0 << 8 | UInt32($1) })
        secret = Array(bytes[12...])
    }
}
