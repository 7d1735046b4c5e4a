import Relay

/// A program's session as a client: its channels and instructions. Belongs to the loop's thread.
final class ClientSide: SessionHandler {
    private let loop: ClientLoop
    private var session: Session?
    private var whenConnected: CheckedContinuation<Void, any Error>?
    private var lastID: Int64 = 0
    private var pending: [Int64: CheckedContinuation<JSONValue, any Error>] = [:]
    private let settings: Relay.Settings

    init(_ settings: Relay.Settings, _ loop: ClientLoop) {
        self.settings = settings
        self.loop = loop
    }

    func start(_ done: CheckedContinuation<Void, any Error>) {
        whenConnected = done
        let session = Session(
            settings.url, trust: settings.trust, credential: settings.credential, retriesFirst: false, handler: self,
            loop: loop)
        self.session = session
        session.start()
    }

    func open(
        _ server: ServerID, _ port: UInt16, _ done: CheckedContinuation<Relay.Channel, any Error>
    ) {
        guard let link = session?.link else { return done.resume(throwing: absent) }
        let (inbox, most) = (loop.inbox, settings.maximumMessageBytes)
        let request = OpenRequest.encode(server: server, port: port, credit: ProgramEnd.window)
        let hasNumber = link.open(request) { number in
            ProgramEnd(.opening(window: ProgramEnd.window), number: number, link: link, maximumMessageBytes: most) {
                done.resume(
                    with: $0.map { end in
                        Relay.Channel(
                            Confined(value: end), end.messages, inbox: inbox, server: "\(server)", port: port)
                    }.mapError { $0 })
            }
        }
        if !hasNumber { done.resume(throwing: absent) }
    }

    func invoke(
        _ instruction: String, _ parameters: JSONValue, _ done: CheckedContinuation<JSONValue, any Error>
    ) {
        guard let link = session?.link else { return done.resume(throwing: absent) }
        lastID += 1
        pending[lastID] = done
        link.send(
            text: RelayConnection.requestText(
                instruction, parameters, credential: settings.credential, id: lastID))
    }

    private var absent: ClientFailure { .unreachable("There is no connection to the relay at \(settings.url) now.") }

    // MARK: What the session tells

    func connected(_ session: Session) {
        whenConnected?.resume()
        whenConnected = nil
    }

    func lost(_ session: Session, _ failure: ClientFailure, retryInSeconds: Double) { fail(failure) }

    func ended(_ session: Session, _ failure: ClientFailure) {
        fail(failure)
        whenConnected?.resume(throwing: failure)
        whenConnected = nil
        loop.stop()
    }

    /// What was asked and not answered never will be.
    private func fail(_ failure: ClientFailure) {
        for done in pending.values { done.resume(throwing: failure) }
        pending = [:]
    }

    func offered(_ request: OpenRequest, _ number: ChannelNumber, on link: Link) -> Offer {
        .reject(ChannelClose(404, "this is no server"))
    }

    func received(text: String) {
        guard let reply = JSONValue(json: text), let id = reply["id"]?.integer,
            let done = pending.removeValue(forKey: id)
        else { return }
        if let error = reply["error"] { return done.resume(throwing: RelayConnection.failure(error)) }
        done.resume(returning: reply["result"] ?? .null)
    }
}

/// A program's session as a server. Belongs to the loop's thread.
final class ServerSide: SessionHandler {
    /// A channel that waits to be taken by the program, and is accepted then.
    struct Offered: Sendable {
        let end: Confined<ProgramEnd>
        let messages: Arrivals<ProgramEnd.Arrived>
        let request: OpenRequest
    }

    let offers = Arrivals<Offered>()
    private let loop: ClientLoop
    private let settings: Relay.Settings
    private let url: RelayURL
    private var session: Session?
    private var whenConnected: ((Result<Void, any Error>) -> Void)?

    init(_ server: ServerID, ports: [UInt16]?, _ settings: Relay.Settings, _ loop: ClientLoop) {
        self.settings = settings
        self.loop = loop
        let list = ports.map { "ports=" + $0.map(String.init).joined(separator: ",") }
        url = settings.url.appending(path: "/s/\(server.pathSegment)", query: list)
    }

    /// `done` is called once: when the relay has taken the registration, or has not.
    func start(_ done: @escaping (Result<Void, any Error>) -> Void) {
        whenConnected = done
        let session = Session(
            url, trust: settings.trust, credential: settings.credential, retriesFirst: false, handler: self, loop: loop)
        self.session = session
        session.start()
    }

    func close() { finish(nil) }

    private func finish(_ failure: ClientFailure?) {
        session?.close()
        session = nil
        answer(.failure(failure ?? ClientLoop.stopped))
        offers.finished(failure)
    }

    private func answer(_ result: Result<Void, any Error>) {
        whenConnected?(result)
        whenConnected = nil
    }

    // MARK: What the session tells

    func connected(_ session: Session) { answer(.success(())) }
    func lost(_ session: Session, _ failure: ClientFailure, retryInSeconds: Double) {}
    func ended(_ session: Session, _ failure: ClientFailure) { finish(failure) }
    func received(text: String) {}

    func offered(_ request: OpenRequest, _ number: ChannelNumber, on link: Link) -> Offer {
        let end = ProgramEnd(
            .offered(credit: request.credit, window: ProgramEnd.window), number: number, link: link,
            maximumMessageBytes: settings.maximumMessageBytes)
        offers.received(Offered(end: Confined(value: end), messages: end.messages, request: request))
        return .take(end)
    }
}
