import Relay

/// Why the relay could not be reached, or did not do what it was asked: one sentence for a person.
public struct ClientFailure: Error, CustomStringConvertible {
    /// What kind of failure it is; as a number, what a command exits with.
    public enum Kind: Int32, Sendable {
        /// Refused by the relay, or failed.
        case refused = 1
        /// The relay cannot be reached, or went away.
        case unreachable = 3
    }
    public let kind: Kind
    public let description: String

    /// The HTTP status of the relay's answer, where it refused a connection.
    let status: Int?

    init(kind: Kind, description: String, status: Int? = nil) {
        self.kind = kind
        self.description = description
        self.status = status
    }

    package static func refused(_ sentence: String) -> ClientFailure {
        ClientFailure(kind: .refused, description: sentence)
    }
    package static func unreachable(_ sentence: String) -> ClientFailure {
        ClientFailure(kind: .unreachable, description: sentence)
    }

    /// A connection that was open broke.
    static func broken(_ url: RelayURL, _ reason: String) -> ClientFailure {
        .unreachable("The connection to the relay at \(url) broke: \(reason).")
    }

    /// The relay has closed a connection that was open.
    static func closed(_ url: RelayURL, with code: CloseCode?, saying reason: String) -> ClientFailure {
        let said = reason.isEmpty ? "" : ", saying \"\(printable(reason))\""
        let sentence = "The relay at \(url) closed the connection with \(code.map { "\($0)" } ?? "no code")\(said)."
        return code?.shouldReconnect ?? true ? .unreachable(sentence) : .refused(sentence)
    }
}
