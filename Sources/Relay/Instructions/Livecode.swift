/// The lines with which node-livecode tells what it does; relayd sends them as text frames to connections that asked
/// for them (DESIGN §6).
enum Livecode {
    static func received(_ name: String) -> String { "server: received command '\(name)'" }
    static func adding(_ name: String) -> String { "server: adding instruction '\(name)'" }
    static func evaluating(_ name: String) -> String { "server: evaluating added instruction '\(name)'" }
    static func returned(_ text: String) -> String { "server: \(text)" }
    static func rejected(_ name: String) -> String { "server: rejected command '\(name)'" }
    static func rejectedMalformed(_ text: String) -> String { "server: rejected malformed command\(text)" }

    /// A result as node-livecode prints it: a string as it is, anything else as JSON; nothing as `undefined`.
    static func plain(_ json: UnsafeRawBufferPointer?) -> String {
        guard let json, json.count > 0 else { return "undefined" }
        guard json.first == UInt8(ascii: "\""), json.count >= 2 else { return String(decoding: json, as: UTF8.self) }
        let inner = UnsafeRawBufferPointer(rebasing: json[1..<json.count - 1])
        return withUnsafeTemporaryAllocation(byteCount: max(1, inner.count), alignment: 1) { buffer in
            let count = JSONString.decode(inner, into: buffer)
            return String(decoding: buffer[..<count], as: UTF8.self)
        }
    }
}
