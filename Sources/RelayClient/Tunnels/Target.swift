import Glibc
import Relay

/// What a server's channels lead to: an end point, and the addresses that its name had when it was last asked for.
/// Belongs to the loop's thread.
final class Target: CustomStringConvertible {
    private let endPoint: EndPoint
    /// Where it is a WebSocket service.
    let service: WebSocketService?
    private(set) var addresses: [ResolvedAddress]
    private var isResolving = false

    /// Asks for the addresses, which may take a while.
    init(_ endPoint: EndPoint, _ service: WebSocketService? = nil) throws(ClientFailure) {
        self.endPoint = endPoint
        self.service = service
        switch endPoint.resolve() {
        case .addresses(let addresses): self.addresses = addresses
        case .failed(let reason): throw .refused("Cannot expose \(endPoint): \(reason).")
        }
    }

    var description: String { service.map { "\($0.url)" } ?? "\(endPoint)" }

    /// None of the addresses took a connection: the name may have others by now. Asks in a thread of its own, since
    /// getaddrinfo(3) waits.
    func refresh(_ inbox: Inbox) {
        guard case .internet = endPoint, !isResolving else { return }
        isResolving = true
        let target = Confined(value: self)
        let thread = System.startThread(name: "resolve") { [endPoint] in
            let resolution = endPoint.resolve()
            inbox.post { _ in
                target.value.isResolving = false
                if case .addresses(let addresses) = resolution { target.value.addresses = addresses }
            }
        }
        pthread_detach(thread)
    }
}

/// A target that speaks WebSocket: its URL, and with whose word for its certificate it is believed.
struct WebSocketService {
    let url: RelayURL
    /// Of wss://.
    let context: TLSContext?

    init(_ url: RelayURL, _ trust: Trust) throws(ClientFailure) {
        self.url = url
        do {
            // What else may speak for the relay is of no interest here.
            context = url.isSecure ? try TLSContext.client(verify: trust.possibilities.last ?? .system) : nil
        } catch {
            throw .refused("Cannot expose \(url): \(error).")
        }
    }
}
