import Glibc
import Relay

/// What a server's channels lead to: an end point, and the addresses that its name had when it was last asked for.
/// Belongs to the loop's thread.
final class Target: CustomStringConvertible {
    private let endPoint: EndPoint
    private(set) var addresses: [ResolvedAddress]
    private var isResolving = false

    /// Asks for the addresses, which may take a while.
    init(_ endPoint: EndPoint) throws(ClientFailure) {
        self.endPoint = endPoint
        switch endPoint.resolve() {
        case .addresses(let addresses): self.addresses = addresses
        case .failed(let reason): throw .refused("Cannot expose \(endPoint): \(reason).")
        }
    }

    var description: String { "\(endPoint)" }

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
