/// The subprotocol of a connection (RFC 6455 §1.9), by its name on the wire.
enum Subprotocol: Hashable, Sendable {
    /// node-livecode's lines are sent as well (`Livecode`).
    case livecode
    /// Channels, and instruction messages (docs/relay.v1.md).
    case relay
    /// Of the two ends of a channel, who agree on it between themselves.
    case application(String)

    /// One that the relay speaks.
    init?(known name: String) {
        switch name {
        case "livecode.v0": self = .livecode
        case "relay.v1": self = .relay
        default: return nil
        }
    }

    var name: String {
        switch self {
        case .livecode: "livecode.v0"
        case .relay: "relay.v1"
        case .application(let name): name
        }
    }
}
