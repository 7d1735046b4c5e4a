internal import Logging

// Who is at the other end, where proxies are in between. Until that is known, a connection from a proxy is counted, but
// under no address: one proxy carries everybody's connections.
extension Connection {
    /// Reads the PROXY header that comes first on this listener; what follows it belongs to TLS or HTTP.
    func readProxyHeader(_ bytes: UnsafeMutableRawBufferPointer) {
        guard let version = listener.proxyVersion else { return }
        unread.append(contentsOf: bytes)
        switch unread.withUnsafeBytes({ ProxyHeader.parse($0, version) }) {
        case .incomplete:
            break
        case .refused(let problem):
            failProxyHeader(problem)
        case .header(let header, let length):
            var rest = Array(unread[length...])
            unread = []
            lifecycle.proxied(isSecure: secure != nil)
            guard believe(header) else { return }
            rest.withUnsafeMutableBytes { rest in
                guard !rest.isEmpty else { return }
                if let secure { decrypt(UnsafeRawBufferPointer(rest), secure) } else { consume(rest) }
            }
        }
    }

    /// There is no more to come of a PROXY header, or nothing good.
    func failProxyHeader(_ problem: ProxyHeader.Problem) {
        report(problem)
        disconnect(code: .protocolError, reason: problem.rawValue)
    }

    /// Told at its first time, and then at each power of ten: whoever connects can cause it.
    private func report(_ problem: ProxyHeader.Problem) {
        let count = listener.count(problem)
        var rest = count
        while rest % 10 == 0 { rest /= 10 }
        loop.shared.logger.log(
            level: rest == 1 ? .warning : .debug, "PROXY header",
            metadata: [
                "listener": "\(listener.url)", "remote": "\(address.host)", "problem": "\(problem.rawValue)",
                "count": "\(count)",
            ])
    }

    /// False where the connection is not let in.
    private func believe(_ header: ProxyHeader) -> Bool {
        // The listener itself says that proxies come here, unless it is said who they are. Who may open a Unix socket
        // is a matter of its file.
        let trusted = loop.trustedProxies
        if trusted.isEmpty || !address.isInternet || trusted.contains(address) {
            address = header.source ?? address
        } else {
            report(.untrusted)
        }
        // Behind another trusted proxy: the request tells.
        return trusted.contains(address) || enterAddress()
    }

    /// Takes the client's address from the request, where it came from a trusted proxy; false where it is refused.
    func believe(_ head: RequestHead) -> Bool {
        guard isCounted, !isAddressCounted else { return true }
        guard let client = client(of: head) else { return false }
        address = client
        return enterAddress()
    }

    /// Whose request it is: over one connection a proxy sends those of many. Nil where it is refused.
    func client(of head: RequestHead) -> SocketAddress? {
        guard !isAddressCounted else { return address }
        let client = Forwarded.client(head.fields, from: address, trusting: loop.trustedProxies)
        if client == nil {
            refuse(
                .badRequest,
                "X-Forwarded-For and Forwarded name different clients: the proxy must remove the one that it does not "
                    + "write.")
        }
        return client
    }

    /// The address is known for good: from here on it counts.
    private func enterAddress() -> Bool {
        guard let refusal = loop.shared.enterLate(address, loop.limits) else {
            isAddressCounted = true
            return true
        }
        // Before TLS nothing can be said.
        if lifecycle.isSecuring { disconnect(code: .tryAgainLater, reason: refusal.reason) } else { refuse(refusal) }
        return false
    }
}
