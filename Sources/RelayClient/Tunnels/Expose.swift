import Relay

/// `relayd expose`: local services become servers of a relay. Each channel that the relay offers becomes a connection
/// to the target of its port.
package final class Expose: Tunnel {
    private struct Server {
        let name: ServerID
        let targets: [UInt16: Target]
        let session: Session
    }

    private var servers: [Server] = []

    /// Asks for the addresses of all targets, which may take a while.
    package init(_ targets: [ExposedTarget], _ options: TunnelOptions) throws(ClientFailure) {
        try super.init(options)
        var found: [ServerID: [UInt16: Target]] = [:]
        for target in targets {
            guard found[target.server]?[target.port] == nil else {
                throw .refused("\(target.server):\(target.port) is given twice.")
            }
            found[target.server, default: [:]][target.port] = try Target(
                target.endPoint,
                try target.webSocket.map { (url) throws(ClientFailure) in
                    try WebSocketService(url, options.trust)
                })
        }
        for (name, targets) in found.sorted(by: { $0.key.description < $1.key.description }) {
            let ports = targets.keys.sorted().map(String.init).joined(separator: ",")
            let url = options.url.appending(path: "/s/\(name.pathSegment)", query: "ports=\(ports)")
            servers.append(Server(name: name, targets: targets, session: addSession(url)))
        }
    }

    private func server(of session: Session) -> Server? { servers.first { $0.session === session } }

    override func connected(_ session: Session) {
        guard let server = server(of: session) else { return }
        let names = server.targets.keys.sorted().map { "\(server.name):\($0)" }.joined(separator: ", ")
        report("Connected to \(options.url), installed as \(names).")
    }

    override func offered(_ request: OpenRequest, _ number: ChannelNumber, on link: Link) -> Offer {
        guard let server = server(of: link.owner), let target = server.targets[request.port] else {
            return .reject(ChannelClose(404, "nothing is exposed at port \(request.port)"))
        }
        let state = ChannelState.offered(credit: request.credit, window: LocalEnd.window)
        let label = "\(server.name):\(request.port): client from \(request.remoteAddress)"
        guard let service = target.service else {
            return .take(
                LocalEnd(
                    state, number: number, link: link, target: target, label: label, owner: self, loop: loop))
        }
        return .take(
            WebSocketEnd(
                state, number: number, link: link, target: target, service: service, label: label, owner: self,
                loop: loop))
    }

    override func opened(_ end: TunnelEnd) { report(end.label) }
}
