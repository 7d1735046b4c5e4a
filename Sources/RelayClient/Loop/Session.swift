import Glibc
import Relay

/// What a session tells: all on the loop's thread.
protocol SessionHandler: AnyObject {
    /// A connection is there, the first or another one.
    func connected(_ session: Session)
    /// No connection is there, or the one that was is lost; another attempt follows.
    func lost(_ session: Session, _ failure: ClientFailure, retryInSeconds: Double)
    /// It is over: no attempt follows.
    func ended(_ session: Session, _ failure: ClientFailure)
    /// The relay wants a channel served.
    func offered(_ request: OpenRequest, _ number: ChannelNumber, on link: Link) -> Offer
    /// A text message came.
    func received(text: String)
}

/// What is done with a channel that the relay offers.
enum Offer {
    case take(ChannelEnd)
    case reject(ChannelClose)
}

/// A relation to a relay that lasts: connects, and connects anew when the connection is lost, or is about to be.
final class Session: Watched {
    let url: RelayURL
    private let trust: Trust
    private let credential: String?
    /// Keep trying although the first attempt did not reach a relay.
    private let retriesFirst: Bool
    /// Nil once it is over.
    private var handler: (any SessionHandler)?
    private unowned let loop: ClientLoop

    /// The connection on which channels are opened.
    private(set) var link: Link?
    private var backoff = Backoff()
    private var isDialing = false
    private var hasConnected = false
    private var isOver = false
    private var dialAt: UInt64?

    private static let dialTimeout = Duration.seconds(10)

    init(
        _ url: RelayURL, trust: Trust, credential: String?, retriesFirst: Bool, handler: any SessionHandler,
        loop: ClientLoop
    ) {
        self.url = url
        self.trust = trust
        self.credential = credential
        self.retriesFirst = retriesFirst
        self.handler = handler
        self.loop = loop
    }

    func start() {
        guard !loop.isStopping else { return end(ClientLoop.stopped) }
        loop.add(self)
        dial()
    }

    /// Says goodbye to the relay. Nothing is told after this.
    func close() {
        isOver = true
        handler = nil
        loop.remove(self)
        link?.close(.goingAway)
        // Its goodbye takes its time, in which nobody is to ask anything through it.
        link = nil
    }

    /// Says goodbye, and tells the handler that it is over.
    func end(_ failure: ClientFailure) {
        let handler = handler
        close()
        handler?.ended(self, failure)
    }

    // MARK: Connecting

    private struct Dialed {
        let socket: SocketStream
        let received: [UInt8]
    }

    /// Connects in a thread of its own: names are resolved by getaddrinfo(3), which waits.
    private func dial() {
        isDialing = true
        dialAt = nil
        let session = Confined(value: self)
        let inbox = loop.inbox
        let (url, trust, credential) = (url, trust, credential)
        let thread = System.startThread(name: "dial") {
            let result = Self.dial(url, trust, credential)
            inbox.post { _ in session.value.dialed(result) }
        }
        pthread_detach(thread)
    }

    private static func dial(
        _ url: RelayURL, _ trust: Trust, _ credential: String?
    ) -> Result<Confined<Dialed>, ClientFailure> {
        let deadline = Deadline.after(dialTimeout)
        do throws(ClientFailure) {
            let socket = try SocketStream.open(url, trust: trust, deadline: deadline)
            let received = try Handshake.perform(
                over: socket, url: url, subprotocol: "relay.v1", credential: credential, deadline: deadline)
            return .success(Confined(value: Dialed(socket: socket, received: received + socket.takeBufferedInput())))
        } catch {
            return .failure(error)
        }
    }

    private func dialed(_ result: Result<Confined<Dialed>, ClientFailure>) {
        isDialing = false
        guard !isOver else { return }
        switch result {
        case .success(let dialed):
            let dialed = dialed.value
            hasConnected = true
            // A connection that drains goes on with its channels until the relay closes it.
            let link = Link(dialed.socket, owner: self, loop: loop)
            self.link = link
            handler?.connected(self)
            link.start(received: dialed.received)
        case .failure(let failure):
            retry(after: failure)
        }
    }

    private func retry(after failure: ClientFailure) {
        guard mayRetry(failure) else { return end(failure) }
        let seconds = backoff.pause(chance: .random(in: 0..<1))
        dialAt = loop.now + UInt64(seconds * 1000)
        if link == nil { handler?.lost(self, failure, retryInSeconds: seconds) }
    }

    /// A relay that was there once comes back, and its app and names with it; that a credential is good no more will
    /// not change by itself.
    private func mayRetry(_ failure: ClientFailure) -> Bool {
        guard failure.kind == .refused else { return hasConnected || retriesFirst }
        guard hasConnected, let status = failure.status else { return false }
        return status == 404 || status == 409
    }

    override var deadline: UInt64? { dialAt }
    override func deadlinePassed(_ loop: ClientLoop) { if !isDialing { dial() } }

    // MARK: What links tell

    func lost(_ link: Link, _ failure: ClientFailure) {
        // One that has been replaced, because it drained, may go.
        guard self.link === link else { return }
        self.link = nil
        backoff.ended(after: Double(loop.now - link.connectedAt) / 1000)
        // Another attempt is under way where the relay had said that it would go.
        if isDialing { handler?.lost(self, failure, retryInSeconds: 0) } else { retry(after: failure) }
    }

    /// The relay will close the connection: another one is made at some moment before, so that not all come at once.
    func draining(_ link: Link, _ json: [UInt8]) {
        guard self.link === link, !isDialing, dialAt == nil else { return }
        let frame = JSONValue(json: String(decoding: json, as: UTF8.self))
        let milliseconds = max(0, min(frame?["reconnectInMilliseconds"]?.integer ?? 0, 3_600_000))
        dialAt = loop.now + UInt64(Double(milliseconds) * .random(in: 0..<0.8))
    }

    func offered(_ json: [UInt8], _ number: ChannelNumber, on link: Link) -> Offer? {
        guard let request = OpenRequest(json) else { return nil }
        return handler?.offered(request, number, on: link) ?? .reject(ChannelClose(502, "the server is leaving"))
    }

    func received(text: String) { handler?.received(text: text) }
}
