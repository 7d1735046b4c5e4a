import Glibc
import Relay

// Reaching a relay.
extension SocketStream {
    /// Connects to a relay, trying each address of its host's, and shakes hands where the URL says wss://.
    static func open(_ url: RelayURL, trust: Trust, deadline: Deadline) throws(ClientFailure) -> SocketStream {
        guard url.isSecure else { return try connect(to: url, deadline) }
        var first: ClientFailure?
        for verification in trust.possibilities {
            let socket = try connect(to: url, deadline)
            guard let reason = socket.secure(verification, url.host, deadline) else { return socket }
            first =
                first
                ?? .unreachable(
                    "Cannot reach the relay at \(url) securely: \(reason). Name its certificate with --ca FILE if it "
                        + "is not signed by an authority that this system knows.")
        }
        throw first ?? .unreachable("Cannot reach the relay at \(url): nothing is trusted.")
    }

    private func secure(_ verification: TLSContext.Verification, _ host: String, _ deadline: Deadline) -> String? {
        do {
            return try secure(TLSContext.client(verify: verification), host: host, deadline: deadline)
        } catch {
            return "\(error)"
        }
    }

    private static func connect(to url: RelayURL, _ deadline: Deadline) throws(ClientFailure) -> SocketStream {
        var reason = ""
        switch url.endPoint.resolve() {
        case .failed(let why): reason = why
        case .addresses(let addresses):
            for address in addresses {
                switch address.connect() {
                case .failed(let code): reason = System.describe(errno: code)
                case .started(let descriptor, let isPending):
                    let stream = SocketStream(fileDescriptor: descriptor)
                    guard isPending else { return stream }
                    guard stream.wait(for: Int32(POLLOUT), deadline) else {
                        reason = "no answer in time"
                        continue
                    }
                    let code = ResolvedAddress.outcome(descriptor)
                    guard code != 0 else { return stream }
                    reason = System.describe(errno: code)
                }
            }
        }
        throw .unreachable(
            "Cannot reach a relay at \(url): \(reason). Start one with `relayd serve`, or name another with --to URL.")
    }
}
