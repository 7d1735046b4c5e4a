internal import Logging

// The HTTP side of a connection: a request head in, a 101 or a refusal out.
extension Connection {
    /// Reads the request head that `bytes` begin with, and answers how many it has: 0 where it is not whole. What
    /// follows it stays unread until the app has decided.
    func readHead(_ bytes: UnsafeRawBufferPointer) -> Int {
        switch RequestHeadParser.parse(bytes, maximumBytes: loop.limits.handshakeBytes) {
        case .incomplete:
            awaitRest()
            return 0
        case .refused(let status, let reason):
            refuse(status, "\(reason)")
            return bytes.count
        case .head(let head, let length):
            self.head = head
            route(head)
            return length
        }
    }

    private func route(_ head: RequestHead) {
        if let service = listener.service {
            guard believe(head) else { return }
            return upgrade(head, app: Route.defaultApp, .client(service.server, port: service.port))
        }
        let base = loop.shared.configuration.basePath
        let route = Route.parse(head.path, below: base)
        if let app = route.app, !head.asksForWebSocket {
            return request(head, route, app: app, path: Route.pathInApp(head.path, below: base))
        }
        guard believe(head) else { return }
        switch route {
        case .instruction(let app):
            upgrade(head, app: app, .instruction)
        case .cleanClient(let app, let server, let port):
            upgrade(head, app: app, .client(server, port: port))
        case .serverRegistration(let app, let server):
            guard let ports = offeredPorts(head) else {
                return refuse(.badRequest, "The ports that a server offers are written as in ports=22,80-90.")
            }
            upgrade(head, app: app, .server(server, ServerOptions(replaces: true, ports: ports)))
        case .dedicated(let app, let ticket):
            guard let ticket = ChannelTicket(ticket) else { return refuse(.notFound, "This is no ticket.") }
            upgrade(head, app: app, .dedicated(ticket))
        case .health:
            respond(to: head, .ok, "ok\n")
        case .ready:
            loop.isDraining
                ? respond(to: head, .serviceUnavailable, "draining\n")
                : respond(to: head, .ok, "ready\n")
        case .file(let path):
            respond(to: head, filePath: path)
        case .badRequest:
            refuse(.badRequest, "The path is not well-formed.")
        case .metrics, .other, .notFound:
            refuse(.notFound, "There is nothing at this path.")
        }
    }

    /// The ports that a server's request offers; all where it does not say. Nil where they cannot be read.
    private func offeredPorts(_ head: RequestHead) -> PortSet? {
        guard let text = Query.value(of: "ports", in: head.query) else { return .all }
        return PortSet(text)
    }

    private func respond(to head: RequestHead, _ status: HTTPStatus, _ body: String) {
        let bytes = HTTPResponse.encode(
            status, date: httpDate, headers: [("Cache-Control", "no-store")], body: body, close: true)
        respond(to: head, bytes, bodyCount: body.utf8.count)
    }

    private func respond(to head: RequestHead, filePath path: String) {
        let shared = loop.shared
        guard !(path + "/").hasPrefix(StaticFile.examples) || shared.configuration.examples else {
            return refuse(.notFound, "There is nothing at this path; the example pages need --examples.")
        }
        guard let file = shared.files[path] else {
            guard shared.files[path + "/"] != nil else { return refuse(.notFound, "There is nothing at this path.") }
            // Relative to the request's own path, which a proxy may have changed (RFC 9110 §10.2.2).
            let name = path.split(separator: "/").last ?? ""
            return refuse(.permanentRedirect, "This path ends with a slash.", headers: [("Location", "\(name)/")])
        }
        let bytes = HTTPResponse.encode(
            .ok, date: httpDate, headers: StaticFile.headers(for: path), contentType: file.contentType,
            body: file.body, close: true)
        respond(to: head, bytes, bodyCount: file.body.count)
    }

    /// Answers GET and HEAD with a whole response.
    private func respond(to head: RequestHead, _ response: [UInt8], bodyCount: Int) {
        guard head.method == "GET" || head.method == "HEAD" else {
            return refuse(.methodNotAllowed, "Use GET.", headers: [("Allow", "GET, HEAD")])
        }
        guard lifecycle.refused() else { return }
        end(with: response, bodyCount: bodyCount)
    }

    /// The last response of a connection; without its body where the request is HEAD (RFC 9110 §9.3.2).
    private func end(with response: [UInt8], bodyCount: Int) {
        queueBytes(head?.method == "HEAD" ? response.dropLast(bodyCount) : response)
        finish()
    }

    /// Answers the request with an error and ends the connection.
    func refuse(_ status: HTTPStatus, _ reason: String, headers: [(String, String)] = []) {
        guard lifecycle.refused() else { return }
        leaveChannels(.goingAway, reason)
        loop.shared.logger.debug(
            "refused a request",
            metadata: ["remote": "\(address.host)", "status": "\(status.code)", "reason": "\(reason)"])
        let body = reason + "\n"
        let bytes = HTTPResponse.encode(status, date: httpDate, headers: headers, body: body, close: true)
        end(with: bytes, bodyCount: body.utf8.count)
    }

    func refuse(_ refusal: Refusal) {
        refuse(.serviceUnavailable, refusal.reason, headers: [("Retry-After", "5")])
    }

    // MARK: Upgrade

    private func upgrade(_ head: RequestHead, app: String, _ purpose: PendingUpgrade.Purpose) {
        guard !loop.isDraining else { return refuse(.draining) }
        switch WebSocketUpgrade.evaluate(head) {
        case .refuse(let status, let headers, let reason):
            refuse(status, reason, headers: headers)
        case .accept(let key, let subprotocols, let bearer):
            guard originIsAllowed(head) else {
                return refuse(.forbidden, "This origin is not in the relay's list of allowed origins.")
            }
            guard loop.shared.apps.homeLoop(of: app) != nil else {
                return refuse(.notFound, "There is no app of this name.")
            }
            guard authorize(head, bearer: bearer, app: app) else {
                return refuse(
                    .unauthorized, "The credential is missing or not valid here.",
                    headers: [("WWW-Authenticate", "Bearer realm=\"relayd\"")])
            }
            subprotocol = choose(from: subprotocols, purpose)
            // A token alone lets in; what it allows beyond that, it allows to links only.
            isTrustedLink = isTrustedLink && subprotocol == .link
            guard subprotocol != .link || isTrustedLink || isAdmin || credential != nil else {
                return refuse(.unauthorized, "A link takes a credential, or a listener's token.")
            }
            if case .server = purpose, subprotocol != .relay {
                return refuse(.badRequest, "A server speaks the subprotocol relay.v1.")
            }
            pending = .upgrade(PendingUpgrade(appName: app, purpose: purpose, key: key))
            lifecycle.headRead()
            awaitRest()
            pauseReceiving()
        }
    }

    /// The ends of a channel agree on a subprotocol between themselves: the first that one offers is the one, since a
    /// browser takes no answer without.
    private func choose(from offered: [String], _ purpose: PendingUpgrade.Purpose) -> Subprotocol? {
        switch purpose {
        case .client, .dedicated: offered.first.map(Subprotocol.application)
        case .server: offered.contains(Subprotocol.relay.name) ? .relay : nil
        case .instruction: offered.lazy.compactMap(Subprotocol.init(known:)).first
        }
    }

    /// Browsers name the page's origin; other clients leave it out and are let in, since a list of origins protects
    /// browsers' users from foreign pages, not the relay from clients (RFC 6455 §10.2).
    private func originIsAllowed(_ head: RequestHead) -> Bool {
        let allowed = loop.shared.configuration.allowedOrigins
        guard !allowed.isEmpty else { return true }
        let origins = head.values(of: "origin")
        guard let origin = origins.first else { return true }
        return origins.count == 1 && allowed.contains(origin)
    }

    /// Looks for a token where DESIGN §5 says, in its order, and decides what it is worth. False: answer 401.
    private func authorize(_ head: RequestHead, bearer: String?, app: String) -> Bool {
        // Who listens for one server's clients lets them in; what they present is the server's to judge.
        if listener.service != nil, listener.authToken == nil { return true }
        guard let token = presentedToken(head, bearer) else { return listener.authToken == nil }
        if let expected = listener.authToken, Digest.constantTimeEqual(token, expected) {
            isTrustedLink = listener.takesLinks
            return true
        }
        let shared = loop.shared
        switch verify(token, app: app, from: address) {
        case .accepted(let credential):
            guard shared.enter(credential) else {
                shared.logUnauthorized("too many connections of one credential", address, instruction: nil)
                return false
            }
            self.credential = credential
            if credential.isAdmin { isAdmin = true }
            return true
        case .refused where listener.leavesBearerToScripts && listener.authToken == nil:
            return true  // It is somebody else's; the connection may do what one without a token may.
        case .refused(let reason):
            shared.logUnauthorized("\(reason)", address, instruction: nil)
            return false
        }
    }

    func verify(_ token: String, app: String, from address: SocketAddress) -> Verification {
        Array(token.utf8).withUnsafeBytes {
            loop.shared.credentials.verify(
                $0, app: app, remoteAddress: address.host, now: Int64(System.wallClockSeconds()))
        }
    }

    func presentedToken(_ head: RequestHead, _ bearer: String?) -> String? {
        if let value = head.values(of: "authorization").first {
            let parts = value.split(separator: " ", maxSplits: 1)
            if parts.count == 2, parts[0].lowercased() == "bearer" { return String(parts[1]) }
        }
        return bearer ?? Query.value(of: "auth", in: head.query) ?? Query.value(of: "credential", in: head.query)
    }

    // MARK: Admission

    var pendingUpgrade: PendingUpgrade? {
        if case .upgrade(let upgrade) = pending { upgrade } else { nil }
    }

    /// The head is read: on to the app's home loop.
    func proceed() {
        guard let pending, let home = loop.shared.apps.homeLoop(of: pending.appName) else {
            return refuse(.notFound, "There is no app of this name.")
        }
        if home == loop.index { return admit() }
        isMoving = true
        loop.move(self, to: loop.shared.loops[home])
    }

    /// On the home loop: ask the app's handshake hooks.
    func admit() {
        guard lifecycle.isAdmitting, let pendingUpgrade else { return }
        guard let app = loop.apps[pendingUpgrade.appName] else {
            return refuse(.notFound, "There is no app of this name.")
        }
        self.app = app
        app.admit(self)
    }

    /// It is let in: the 101 goes out, the app's hooks run, frames may come.
    func letIn() {
        guard answer() else { return }
        begin()
    }

    /// The app hears of it; frames may come, those first that are here already.
    func begin() {
        ask(.opened(id))
        guard lifecycle.readsFrames else { return }
        readUnread()
        if !isHeld, unread.isEmpty { startReceiving() }
    }

    /// Sizes of messages are limited where the relay puts them together.
    func limitsChanged() {
        let most = subprotocol == .link ? LinkMessage.maximumBytes : loop.limits.messageBytes
        reader.maximumMessageBytes = cleanEnd == nil ? most : 0
    }

    /// Sends the 101; false where it is too late for one.
    func answer() -> Bool {
        guard let pendingUpgrade, lifecycle.admitted() else { return false }
        wasOpen = true
        limitsChanged()
        if subprotocol == .relay || subprotocol == .link { beginMultiplexing() }
        isLivecode = listener.isLivecode || subprotocol == .livecode
        queueBytes(
            UpgradeResponse.encode(
                accept: Digest.webSocketAccept(key: pendingUpgrade.key), subprotocol: subprotocol?.name))
        pending = nil
        deadlines.enter(.open, at: loop.now)
        deadlines.lastReceived = loop.now
        if let expires = credential?.expires {
            let seconds = max(0, Double(expires) - System.wallClockSeconds())
            deadlines.credential = loop.now + UInt64(min(seconds, 1e9) * 1000)
        }
        updateTimer()
        return true
    }
}
