import Relay

/// What `open` says to a server (docs/relay.v1.md, "Frames").
struct OpenRequest: Sendable {
    let server: ServerID
    let port: UInt16
    /// The client's address, as the relay sees it.
    let remoteAddress: String
    /// What a script has added.
    let metadata: JSONValue
    /// Bytes that may be sent to the client at first.
    let credit: Int

    /// Nil where it is not what the document says.
    init?(_ json: [UInt8]) {
        guard let value = JSONValue(json: String(decoding: json, as: UTF8.self)),
            let port = value["port"]?.integer.flatMap(UInt16.init(exactly:))
        else { return nil }
        switch value["server"] {
        case .string(let name): server = .name(name)
        case .integer(let number): server = .number(number)
        default: return nil
        }
        self.port = port
        remoteAddress = value["remoteAddress"]?.string ?? ""
        metadata = value["metadata"] ?? .null
        guard let credit = value["credit"] else {
            self.credit = ChannelState.defaultCredit
            return
        }
        guard let credit = credit.integer.flatMap(UInt32.init(exactly:)) else { return nil }
        self.credit = Int(credit)
    }

    /// The `open` of a client.
    static func encode(server: ServerID, port: UInt16, credit: Int) -> [UInt8] {
        var json = Array(#"{"server":"#.utf8)
        server.write(into: &json)
        json.append(contentsOf: #","port":\#(port),"credit":\#(credit)}"#.utf8)
        return json
    }
}

extension ServerID {
    /// As a path has it: digits, as a number is written, are a number.
    init(_ text: String) {
        if let number = Int64(text), number >= 0, String(number) == text {
            self = .number(number)
        } else {
            self = .name(text)
        }
    }

    /// As a part of a path (RFC 3986 §2.3).
    var pathSegment: String {
        var segment = ""
        for byte in description.utf8 {
            switch byte {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                segment.unicodeScalars.append(Unicode.Scalar(byte))
            default: segment += (byte < 16 ? "%0" : "%") + String(byte, radix: 16, uppercase: true)
            }
        }
        return segment
    }
}
