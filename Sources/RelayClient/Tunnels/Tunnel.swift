import Glibc
import Relay

/// How a tunnel finds its relay, and what it tells.
package struct TunnelOptions {
    package var url: RelayURL
    package var trust: Trust
    package var credential: String?
    /// Keep trying when the relay cannot be reached at the start.
    package var retries: Bool
    /// Takes each line that is for a person.
    package var report: (String) -> Void

    package init(
        url: RelayURL, trust: Trust, credential: String?, retries: Bool, report: @escaping (String) -> Void
    ) {
        self.url = url
        self.trust = trust
        self.credential = credential
        self.retries = retries
        self.report = report
    }
}

/// What both kinds of tunnel are: sessions on one loop, which runs on the thread that calls `run`, until a signal ends
/// it or the relay does for good.
package class Tunnel: SessionHandler, TunnelEndOwner {
    final let options: TunnelOptions
    final let loop = ClientLoop()
    final private(set) var sessions: [Session] = []
    private let signals: SignalSource
    private var signalWatch: SignalWatch?
    private var isStopping = false
    private var failure: ClientFailure?

    init(_ options: TunnelOptions) throws(ClientFailure) {
        self.options = options
        do { signals = try SignalSource() } catch { throw .refused("Cannot start: \(error).") }
        _ = System.raiseOpenFileLimit()
    }

    /// Returns after SIGINT, SIGTERM or SIGHUP, or when a tunnel that has an end has ended; throws where the relay
    /// cannot be reached, or wants no more of it.
    package func run() throws(ClientFailure) {
        let watch = SignalWatch { [unowned self] in stop() }
        signalWatch = watch
        _ = loop.watch(signals.fileDescriptor, for: watch)
        for session in sessions { session.start() }
        loop.run()
        if let failure { throw failure }
    }

    /// Ends `run`.
    final func stop(_ failure: ClientFailure? = nil) {
        guard !isStopping else { return }
        isStopping = true
        self.failure = failure
        for session in sessions { session.close() }
        loop.stop()
    }

    /// A session that `run` will start.
    final func addSession(_ url: RelayURL) -> Session {
        let session = Session(
            url, trust: options.trust, credential: options.credential, retriesFirst: options.retries, handler: self,
            loop: loop)
        sessions.append(session)
        return session
    }

    final func report(_ line: String) { options.report(printable(line)) }

    // MARK: What sessions tell

    func connected(_ session: Session) {}

    func lost(_ session: Session, _ failure: ClientFailure, retryInSeconds seconds: Double) {
        let tenths = Int((seconds * 10).rounded())
        report("\(failure) Reconnecting in \(tenths / 10).\(tenths % 10) s.")
    }

    func ended(_ session: Session, _ failure: ClientFailure) { stop(failure) }

    func offered(_ request: OpenRequest, _ number: ChannelNumber, on link: Link) -> Offer {
        .reject(ChannelClose(404, "this is no server"))
    }

    func received(text: String) {}

    // MARK: What channels tell

    func opened(_ end: TunnelEnd) {}

    func ended(_ end: TunnelEnd, _ failure: String?) {
        let bytes = "\(end.receivedBytes) bytes in and \(end.sentBytes) bytes out"
        report("\(end.label) ended after \(bytes)" + (failure.map { ": \($0)" } ?? ""))
    }
}

/// The signals that end a tunnel.
private final class SignalWatch: Watched {
    private let act: () -> Void
    init(_ act: @escaping () -> Void) { self.act = act }
    override func ready(_ readiness: Readiness) { act() }
}
