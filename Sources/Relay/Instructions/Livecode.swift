/// The lines with which node-livecode tells what it does; relayd sends them as text frames to connections that asked
/// for them (DESIGN §6).
enum Livecode {
    static let subprotocol = "livecode.v0"

    static func received(_ name: String) -> String { "server: received command '\(name)'" }
    static func adding(_ name: String) -> String { "server: adding instruction '\(name)'" }
    static func evaluating(_ name: String) -> String { "server: evaluating added instruction '\(name)'" }
    static func returned(_ text: String) -> String { "server: \(text)" }
    static func rejected(_ name: String) -> String { "server: rejected command '\(name)'" }
    static func rejectedMalformed(_ text: String) -> String { "server: rejected malformed command\(text)" }
}
