package import Relay

/// Makes the links that a relay's configuration names: the same way that a client takes to a relay.
package enum LinkDial {
    private static let timeout = Duration.seconds(10)

    /// Connects and shakes hands, which may take a while; a sentence where that fails.
    package static func dial(_ link: LinkURL) -> Result<DialledSocket, ConfigurationError> {
        let deadline = Deadline.after(timeout)
        let trust = Trust(possibilities: [link.certificates.map { .file($0) } ?? .system])
        do throws(ClientFailure) {
            let url = try RelayURL(parsing: link.url)
            let socket = try SocketStream.open(url, trust: trust, deadline: deadline)
            let received = try Handshake.perform(
                over: socket, url: url, subprotocol: Subprotocol.linkName, credential: link.secret, deadline: deadline)
            return .success(socket.surrender(behind: received))
        } catch {
            return .failure(ConfigurationError(error.description))
        }
    }
}

extension SocketStream {
    /// Gives the connection away, with what has been received on it.
    fileprivate func surrender(behind received: [UInt8]) -> DialledSocket {
        let rest = takeBufferedInput()
        isSurrendered = true
        return DialledSocket(fileDescriptor: fileDescriptor, session: session, received: received + rest)
    }
}
