import Glibc
import Relay

/// A local listening socket, whose connections become channels.
final class LocalListener: Watched {
    private let descriptor: Int32
    /// Removed at the end.
    private let path: String?
    /// Where it listens, with the port that was picked.
    let endPoint: EndPoint
    private let take: (_ descriptor: Int32, SocketAddress) -> Void
    private var mayAccept = false
    private var acceptAgainAt: UInt64?
    private unowned let loop: ClientLoop

    enum Mode {
        /// Connections wait in the kernel: what they are for may come soon.
        case holding
        case taking
        /// Connections are reset at once: waiting could be long.
        case refusing
    }

    var mode = Mode.holding { didSet { accept() } }

    /// Without descriptors, accepting is tried again after this.
    private static let pauseMilliseconds: UInt64 = 100

    init(
        _ endPoint: EndPoint, loop: ClientLoop, take: @escaping (_ descriptor: Int32, SocketAddress) -> Void
    ) throws(ClientFailure) {
        self.loop = loop
        self.take = take
        do {
            switch endPoint {
            case .unix(let path):
                descriptor = try Binding.unix(path: path)
                (self.path, self.endPoint) = (path, endPoint)
            case .internet(let host, let port):
                let bound = try Binding.tcp(host: host, port: Int(port), count: 1)
                // One was asked for, and one is bound.
                descriptor = bound.descriptors[0]
                (path, self.endPoint) = (nil, .internet(host: host, port: UInt16(bound.port)))
            }
        } catch {
            throw .refused("Cannot forward: \(error).")
        }
        super.init()
        _ = loop.watch(descriptor, for: self)
        loop.time(self)
    }

    deinit {
        close(descriptor)
        if let path { unlink(path) }
    }

    override func ready(_ readiness: Readiness) {
        mayAccept = true
        accept()
    }

    override var deadline: UInt64? { acceptAgainAt }
    override func deadlinePassed(_ loop: ClientLoop) {
        acceptAgainAt = nil
        accept()
    }

    private func accept() {
        while mode != .holding, mayAccept, acceptAgainAt == nil {
            switch System.accept(descriptor) {
            case .accepted(let descriptor, let peer):
                if mode == .taking { take(descriptor, peer) } else { Self.refuse(descriptor) }
            case .wouldBlock: mayAccept = false
            case .aborted: continue
            case .exhausted: acceptAgainAt = loop.now + Self.pauseMilliseconds
            }
        }
    }

    /// Resets a connection.
    static func refuse(_ descriptor: Int32) {
        Descriptor.abort(descriptor)
        close(descriptor)
    }
}
