/// The subprotocols that the relay chooses from what a client offers (RFC 6455 §1.9), by their names on the wire.
enum Subprotocol: String {
    /// node-livecode's lines are sent as well (`Livecode`).
    case livecode = "livecode.v0"
}
