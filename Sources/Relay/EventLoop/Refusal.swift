/// Why a new connection is not let in. It is answered with 503 once its request is read, so that the client learns why.
enum Refusal {
    case draining
    case tooManyConnections(limit: Int)
    case tooManyFromAddress(limit: Int)

    /// One sentence for the client; names the limit, as every answer of a limit does.
    var reason: String {
        switch self {
        case .draining:
            "The relay is shutting down; connect again in a moment."
        case .tooManyConnections(let limit):
            "The relay has reached its limit of \(limit) connections (limit connections); try again later."
        case .tooManyFromAddress(let limit):
            "This address has reached its limit of \(limit) connections (limit connectionsPerAddress)."
        }
    }
}
