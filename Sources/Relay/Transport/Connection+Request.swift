internal import Logging

// Requests that stay HTTP: head, body, the answer of the app's scripts, and the next one on the same connection
// (RFC 9112 §9). One at a time: what comes behind a request stays unread until that has its answer.
extension Connection {
    /// The request that scripts answer, or are about to.
    var pendingRequest: PendingRequest? {
        if case .request(let request) = pending { request } else { nil }
    }

    /// A head that asks for no WebSocket, to a path of an app: on to its home loop, where its scripts are.
    func request(_ head: RequestHead, _ route: Route, app: String, path: String) {
        guard !loop.isDraining else { return refuse(.draining) }
        guard loop.shared.apps.homeLoop(of: app) != nil else {
            return refuse(.notFound, "There is no app of this name.")
        }
        guard let client = client(of: head) else { return }
        pending = .request(
            PendingRequest(route, appName: app, path: path, address: client, keepsAlive: head.keepsAlive))
        lifecycle.headRead()
    }

    // MARK: Going on

    /// Something is here that can be gone on with: a whole head, a whole body.
    var hasWork: Bool {
        if lifecycle.isAdmitting { return pending != nil && app == nil && !isMoving }
        return lifecycle.isReceivingBody && pendingRequest?.isWhole == true
    }

    /// Uses what is received, as far as the end of a request. The beginning of a head is kept until it is whole.
    func readRequest(_ bytes: UnsafeRawBufferPointer) {
        guard !unread.isEmpty else {
            let used = readPart(bytes)
            if used < bytes.count, !lifecycle.ignoresInput { unread = Array(bytes[used...]) }
            return
        }
        unread.append(contentsOf: bytes)
        var kept: [UInt8] = []
        swap(&kept, &unread)
        let used = kept.withUnsafeBytes { readPart($0) }
        if used < kept.count, !lifecycle.ignoresInput { unread = used == 0 ? kept : Array(kept[used...]) }
    }

    /// Goes on with what was received, request by request, for as long as nobody has to be waited for.
    func serve() {
        var kept: [UInt8] = []
        swap(&kept, &unread)
        var used = 0
        var hasToWait = false
        func giveBack() {
            if used < kept.count { unread = used == 0 ? kept : Array(kept[used...]) }
            kept = []
        }
        while !hasToWait {
            if lifecycle.isAdmitting {
                guard hasWork else { break }
                guard let request = pendingRequest, isAtHome(request) else {
                    // An upgrade reads the rest as frames, and whatever moves takes it along.
                    giveBack()
                    pauseReceiving()
                    return proceed()
                }
                takeUp(request)
            } else if lifecycle.isReceivingBody, let request = pendingRequest, request.isWhole {
                askScripts(request)
            } else if lifecycle.readsRequest, used < kept.count {
                hasToWait = deadlines.phase == .blocked || hasHadItsTurn
                guard !hasToWait else { break }
                let count = kept.withUnsafeBytes { readPart(UnsafeRawBufferPointer(rebasing: $0[used...])) }
                guard count > 0 else { break }
                used += count
            } else {
                break
            }
        }
        guard lifecycle.isBeforeOpen else { return }
        giveBack()
        if deadlines.phase == .blocked || !lifecycle.readsRequest {
            pauseReceiving()
        } else if hasToWait {
            continueNextTurn()
        } else {
            startReceiving()
            if hasEnded { endOfStream() }
        }
    }

    /// The peer sends no more. What it has asked for is answered all the same; true where that is still to be done.
    func outlivesEnd() -> Bool {
        // TLS can end behind the bytes of one receive, before any of them is served.
        let isHere = pendingRequest != nil && (lifecycle.isAdmitting || hasWork)
        if isHere || lifecycle.isAnswering || (lifecycle.isReadingHead && !isReceiving) {
            hasEnded = true
            return true
        }
        if lifecycle.isReadingHead, queuedBytes > 0, lifecycle.refused() { finish() }
        return false
    }

    // MARK: Head and body

    /// Uses bytes for one part of one request; answers how many. None: the head is not whole.
    private func readPart(_ bytes: UnsafeRawBufferPointer) -> Int {
        lifecycle.isReadingHead ? readHead(bytes) : readBody(bytes)
    }

    /// A request has begun that is not whole: from now on it has its time.
    func awaitRest() {
        guard deadlines.phase != .handshake, deadlines.phase != .request else { return }
        deadlines.enter(.request, at: loop.now, limits: loop.limits)
        updateTimer()
    }

    private func isAtHome(_ request: PendingRequest) -> Bool {
        loop.shared.apps.homeLoop(of: request.appName) == loop.index
    }

    /// On the home loop: do scripts answer requests, and is this one fit to be shown to them?
    private func takeUp(_ request: PendingRequest) {
        guard let app = loop.apps[request.appName], let head else {
            return refuse(.notFound, "There is no app of this name.")
        }
        guard app.servesRequests else {
            let (status, headers, reason) = request.unanswered(head)
            return refuse(status, reason, headers: headers)
        }
        guard authorize(head, request) else {
            return refuse(
                .unauthorized, "The credential is missing or not valid here.",
                headers: [("WWW-Authenticate", "Bearer realm=\"relayd\"")])
        }
        guard let decoder = RequestBodyDecoder(head.framing, maximumBytes: loop.limits.requestBytes) else {
            return refuse(
                .contentTooLarge, "The body is larger than \(loop.limits.requestBytes) bytes (limit requestBytes).")
        }
        request.decoder = decoder
        guard meetsExpectation(head, request) else {
            return refuse(.expectationFailed, "The only expectation that is met here is 100-continue.")
        }
        self.app = app
        app.members[id] = .here(self)
        lifecycle.bodyBegan()
        if !request.isWhole { awaitBody() }
    }

    /// RFC 9110 §10.1.1; the final answer may also come without the 100, as where the body is here already.
    private func meetsExpectation(_ head: RequestHead, _ request: PendingRequest) -> Bool {
        let expectations = head.values(of: "expect")
        guard head.minorVersion >= 1, !expectations.isEmpty else { return true }
        guard expectations.count == 1, head.fields.contains("100-continue", in: "expect") else { return false }
        if !request.isWhole { queueBytes(Array("HTTP/1.1 100 Continue\r\n\r\n".utf8)) }
        return true
    }

    /// Body that has to come within each handshakeTimeout: 64 KiB in 10 s are 52 kbit/s, and one of 1 MiB cannot take
    /// longer than 170 s.
    private static let progressBytes = 64 << 10

    private func awaitBody() {
        deadlines.enter(.request, at: loop.now, limits: loop.limits)
        updateTimer()
    }

    /// Uses bytes for the body; answers how many. Reads no further than to its end.
    private func readBody(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let request = pendingRequest else { return 0 }
        var offset = 0
        while true {
            switch request.decoder.next(bytes, &offset) {
            case .data(let piece):
                let before = request.body.count / Self.progressBytes
                request.body.append(contentsOf: bytes[piece])
                if request.body.count / Self.progressBytes > before { awaitBody() }
            case .incomplete, .end:
                return offset
            case .refused(let status, let reason):
                refuse(status, "\(reason)")
                return bytes.count
            }
        }
    }

    /// Nobody but the connection that it came on has presented this credential, and only for this request: a proxy
    /// sends those of many. False: answer 401.
    private func authorize(_ head: RequestHead, _ request: PendingRequest) -> Bool {
        request.isAdmin = listener.isAdmin
        guard let token = presentedToken(head, nil) else { return listener.authToken == nil }
        if let expected = listener.authToken, Digest.constantTimeEqual(token, expected) { return true }
        switch verify(token, app: request.appName, from: request.address) {
        case .accepted(let credential):
            request.credential = credential
            request.isAdmin = request.isAdmin || credential.isAdmin
            return true
        case .refused(let reason):
            loop.shared.logUnauthorized("\(reason)", request.address, instruction: nil)
            return false
        }
    }

    // MARK: Answers

    /// The time, as answers have it.
    var httpDate: String { loop.httpDate.text(at: Int64(System.wallClockSeconds())) }

    /// The request is whole: the scripts are asked.
    private func askScripts(_ request: PendingRequest) {
        guard let app, let head else { return }
        lifecycle.bodyReceived()
        deadlines.enter(.answering, at: loop.now)
        request.began = loop.now
        app.answer(request, head, on: self)
    }

    /// Queues the answer to the request that scripts have. `fields` are whole lines.
    func respond(_ status: HTTPStatus, fields: UnsafeRawBufferPointer, body: UnsafeRawBufferPointer) {
        guard lifecycle.isAnswering, let request = pendingRequest, let head else { return }
        let keepsAlive = request.keepsAlive && !loop.isDraining
        deliveredMessage = true
        // HTTP/1.0 closes unless it is told otherwise, HTTP/1.1 the other way round (RFC 9112 §9.3).
        let connection: StaticString? = keepsAlive ? (head.minorVersion == 0 ? "keep-alive" : nil) : "close"
        let allowsBody = status.code != 204 && status.code != 304
        queueBytes(
            HTTPResponse.encodeHead(
                status, date: httpDate, fields: fields, bodyCount: allowsBody ? body.count : nil,
                connection: connection))
        if allowsBody, head.method != "HEAD" { outbound.append(body, from: loop.pool) }
        setDirty()
        app?.members[id] = nil
        app = nil
        pending = nil
        self.head = nil
        guard keepsAlive else {
            _ = lifecycle.refused()
            return finish()
        }
        lifecycle.answered()
        let isBlocked = queuedBytes > loop.limits.outboundHighBytes
        deadlines.enter(isBlocked ? .blocked : .keepAlive, at: loop.now, limits: loop.limits)
        updateTimer()
    }

    /// The same with a sentence of the relay's own.
    func respond(_ status: HTTPStatus, _ sentence: String, headers: [(String, String)] = []) {
        var fields: [UInt8] = []
        HTTPResponse.append(headers, to: &fields)
        HTTPResponse.append("Content-Type", "text/plain; charset=utf-8", to: &fields)
        let body = Array((sentence + "\n").utf8)
        fields.withUnsafeBytes { fields in body.withUnsafeBytes { respond(status, fields: fields, body: $0) } }
    }

    /// No script has an answer: what the path is for is said, as if there were none.
    func respondUnanswered() {
        guard let request = pendingRequest, let head else { return }
        let (status, headers, reason) = request.unanswered(head)
        respond(status, reason, headers: headers)
    }

    /// All of a large answer has left but for the low watermark.
    func answerHasLeft() {
        deadlines.enter(.keepAlive, at: loop.now, limits: loop.limits)
        updateTimer()
        continueNextTurn()
    }

    // MARK: The end

    /// Too slow. True where that has been answered, or nothing is owed.
    func requestTookTooLong() -> Bool {
        switch deadlines.phase {
        case .keepAlive:
            if lifecycle.refused() { finish() }
        case .blocked:
            disconnect(code: .slowConsumer, reason: "")
        case .request where lifecycle.isReceivingBody:
            refuse(.requestTimeout, "The body of the request came too slowly (limit handshakeTimeout).")
        default:
            return false
        }
        return true
    }

    /// The relay drains: a request that is here is still answered, with `Connection: close`. False: what else there is
    /// is refused.
    func drainRequests() -> Bool {
        if deadlines.phase == .keepAlive || deadlines.phase == .blocked, lifecycle.isReadingHead, unread.isEmpty {
            if lifecycle.refused() { finish() }
            return true
        }
        return lifecycle.isReceivingBody || lifecycle.isAnswering
    }
}

/// A request that stays HTTP, until its answer is queued. A class, so that connections which have none have no room
/// for it.
final class PendingRequest {
    private let route: Route
    let appName: String
    /// Within the app, decoded.
    let path: String
    /// The client's; the connection's is that of a proxy, where there is one.
    let address: SocketAddress
    /// Whether the connection goes on afterwards, as far as the peer is concerned.
    let keepsAlive: Bool
    /// Tells it from the others of its connection.
    let serial: CallID
    var decoder = RequestBodyDecoder.empty
    var body: [UInt8] = []
    /// What was presented with it. The connection itself has no credential.
    var credential: Credential?
    var isAdmin = false
    /// When the scripts were given it, in milliseconds.
    var began: UInt64 = 0

    init(_ route: Route, appName: String, path: String, address: SocketAddress, keepsAlive: Bool) {
        self.route = route
        self.appName = appName
        self.path = path
        self.address = address
        self.keepsAlive = keepsAlive
        serial = App.nextCallID()
    }

    /// The body is here.
    var isWhole: Bool { decoder.isDone }

    /// The answer where no script has one: what the path is for, as if there were none.
    func unanswered(_ head: RequestHead) -> (status: HTTPStatus, headers: [(String, String)], reason: String) {
        if case .other = route { return (.notFound, [], "There is nothing at this path.") }
        guard case .refuse(let status, let headers, let reason) = WebSocketUpgrade.evaluate(head) else {
            preconditionFailure("an upgrade is handled as a plain request")
        }
        return (status, headers, reason)
    }

    func may(_ access: Right.Access) -> Bool { isAdmin || credential?.allows(access) == true }
}

/// What a head has asked for, until it is answered.
enum Pending {
    case upgrade(PendingUpgrade)
    case request(PendingRequest)

    var appName: String {
        switch self {
        case .upgrade(let upgrade): upgrade.appName
        case .request(let request): request.appName
        }
    }
}
