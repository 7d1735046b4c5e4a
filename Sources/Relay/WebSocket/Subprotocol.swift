/// The subprotocol of a connection (RFC 6455 §1.9), by its name on the wire.
package enum Subprotocol: Hashable, Sendable {
    /// node-livecode's lines are sent as well (`Livecode`).
    case livecode
    /// Channels, and instruction messages (docs/relay.v1.md).
    case relay
    /// Of two relays that are linked: both open channels (docs/links.md).
    case link
    /// Of the two ends of a channel, who agree on it between themselves.
    case application(String)

    package static var linkName: String { "relay.link.v1" }

    /// One that the relay speaks.
    init?(known name: String) {
        switch name {
        case "livecode.v0": self = .livecode
        case "relay.v1": self = .relay
        case Self.linkName: self = .link
        default: return nil
        }
    }

    var name: String {
        switch self {
        case .livecode: "livecode.v0"
        case .relay: "relay.v1"
        case .link: Self.linkName
        case .application(let name): name
        }
    }
}
