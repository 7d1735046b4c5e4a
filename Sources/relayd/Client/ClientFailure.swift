/// Why a command did not do what it was asked: the sentence for standard error, and the exit code (DESIGN §10).
struct ClientFailure: Error, CustomStringConvertible {
    enum Kind: Int32 {
        /// Refused by the relay, or failed.
        case refused = 1
        /// The relay cannot be reached, or went away.
        case unreachable = 3
    }
    let kind: Kind
    let description: String

    static func refused(_ sentence: String) -> ClientFailure { ClientFailure(kind: .refused, description: sentence) }
    static func unreachable(_ sentence: String) -> ClientFailure {
        ClientFailure(kind: .unreachable, description: sentence)
    }
}
