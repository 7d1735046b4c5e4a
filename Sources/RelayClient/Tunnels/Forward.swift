import Glibc
import Relay

/// `relayd forward`: what connects to a local address is connected to a port of a server, through a relay.
package final class Forward: Tunnel {
    /// Where local connections come from.
    package enum Source {
        case listener(EndPoint)
        /// The one connection is the process's standard input and output.
        case standardInputOutput

        /// Reads `HOST:PORT`, `unix:PATH` or `stdio`.
        package init(_ text: String) throws(ClientFailure) {
            if text == "stdio" {
                self = .standardInputOutput
            } else if let endPoint = EndPoint(text[...]) {
                self = .listener(endPoint)
            } else {
                throw .refused(
                    "\"\(printable(text))\" is nothing to listen on: it is HOST:PORT, unix:PATH or stdio, as in "
                        + "127.0.0.1:2222.")
            }
        }
    }

    private let server: ServerID
    private let port: UInt16
    private var listener: LocalListener?
    private var outage: Outage?

    /// How long local connections wait for a relay that is gone: a relay that starts anew is back within this.
    private static let patienceMilliseconds: UInt64 = 5_000

    /// Binds the local address; `destination` is `NAME:PORT`.
    package init(_ source: Source, to destination: String, _ options: TunnelOptions) throws(ClientFailure) {
        (server, port) = try ExposedTarget.serverAndPort(destination)
        try super.init(options)
        if case .listener(let endPoint) = source {
            listener = try LocalListener(endPoint, loop: loop) { [unowned self] in accepted($0, $1) }
            let outage = Outage { [unowned self] in listener?.mode = .refusing }
            loop.time(outage)
            self.outage = outage
        }
        _ = addSession(options.url)
    }

    /// Where it listens; nil for standard input and output.
    package var endPoint: EndPoint? { listener?.endPoint }

    private var destination: String { "\(server):\(port)" }

    // MARK: The relay

    override func connected(_ session: Session) {
        outage?.end = nil
        guard let listener else { return openStandardInputOutput(session) }
        report("Connected to \(options.url), forwarding \(listener.endPoint) to \(destination).")
        listener.mode = .taking
    }

    override func lost(_ session: Session, _ failure: ClientFailure, retryInSeconds: Double) {
        if listener == nil, isStandardInputOutputOpen { return stop(failure) }
        super.lost(session, failure, retryInSeconds: retryInSeconds)
        guard let listener, listener.mode != .refusing, outage?.end == nil else { return }
        listener.mode = .holding
        outage?.end = loop.now + Self.patienceMilliseconds
    }

    private func open(_ link: Link?, input: Int32, output: Int32, label: String) -> Bool {
        guard let link else { return false }
        let request = OpenRequest.encode(server: server, port: port, credit: LocalEnd.window)
        return link.open(request) { number in
            LocalEnd(
                .opening(window: LocalEnd.window), number: number, link: link, input: input, output: output,
                label: label, owner: self, loop: loop)
        }
    }

    private func accepted(_ descriptor: Int32, _ peer: SocketAddress) {
        let from = peer.isInternet ? "\(EndPoint.internet(host: peer.host, port: peer.port))" : "\(peer.host)"
        let label = "\(destination): connection from \(from)"
        if !open(sessions[0].link, input: descriptor, output: descriptor, label: label) {
            LocalListener.refuse(descriptor)
        }
    }

    override func opened(_ end: TunnelEnd) { if listener != nil { report(end.label) } }

    override func ended(_ end: TunnelEnd, _ failure: String?) {
        guard listener == nil else { return super.ended(end, failure) }
        stop(failure.map { .refused("\(destination): \(printable($0)).") })
    }

    // MARK: Standard input and output

    private var isStandardInputOutputOpen = false

    private func openStandardInputOutput(_ session: Session) {
        guard !isStandardInputOutputOpen else { return }
        isStandardInputOutputOpen = true
        let (input, output) = StandardInputOutput.take()
        _ = open(session.link, input: input, output: output, label: destination)
    }
}

/// When an outage has lasted too long.
private final class Outage: Watched {
    var end: UInt64?
    private let act: () -> Void
    init(_ act: @escaping () -> Void) { self.act = act }
    override var deadline: UInt64? { end }
    override func deadlinePassed(_ loop: ClientLoop) {
        end = nil
        act()
    }
}

/// The process's standard input and output as descriptors that do not block.
enum StandardInputOutput {
    /// Takes both over; /dev/null stands in their place, so that closing what this returns is what the other side sees.
    static func take() -> (input: Int32, output: Int32) {
        let taken = (nonBlocking(STDIN_FILENO, O_RDONLY), nonBlocking(STDOUT_FILENO, O_WRONLY))
        let nothing = open("/dev/null", O_RDWR | O_CLOEXEC)
        dup2(nothing, STDIN_FILENO)
        dup2(nothing, STDOUT_FILENO)
        close(nothing)
        return taken
    }

    /// O_NONBLOCK belongs to what is open, which others may hold as well: a shell its terminal. So a pipe or a terminal
    /// is opened anew (proc(5), /proc/PID/fd); a socket cannot be, and a file never blocks.
    private static func nonBlocking(_ descriptor: Int32, _ mode: Int32) -> Int32 {
        let fresh = open("/proc/self/fd/\(descriptor)", mode | O_NONBLOCK | O_CLOEXEC)
        var status = stat()
        fstat(descriptor, &status)
        let isFile = status.st_mode & S_IFMT == S_IFREG
        if fresh >= 0, !isFile { return fresh }
        if fresh >= 0 { close(fresh) }
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
        if !isFile { _ = fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) | O_NONBLOCK) }
        return copy
    }
}
