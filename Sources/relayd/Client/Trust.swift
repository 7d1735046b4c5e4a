import Glibc
import Relay

/// Whom a client takes for the relay behind wss://. Several possibilities are tried in turn, each on a connection of
/// its own; the first that is satisfied holds.
struct Trust {
    var possibilities: [TLSContext.Verification] = [.system]

    /// TLS over a connected socket. Throws where the relay is not who it should be, or does not speak TLS.
    static func secure(
        _ socket: SocketStream, _ verification: TLSContext.Verification, url: RelayURL, deadline: Deadline
    ) throws(ClientFailure) -> any ByteStream {
        do {
            return try TLSStream(
                socket, try TLSContext.client(verify: verification), host: url.host, deadline: deadline)
        } catch {
            throw .unreachable(
                "Cannot reach the relay at \(url) securely: \(error). Name its certificate with --ca FILE if it is not "
                    + "signed by an authority that this system knows.")
        }
    }
}

/// TLS over a socket, with the socket's deadlines.
private final class TLSStream: ByteStream {
    private let socket: SocketStream
    private let session: TLSClientStream

    init(_ socket: SocketStream, _ context: TLSContext, host: String, deadline: Deadline) throws(TLSError) {
        // OpenSSL writes with write(2): a relay that is gone must be an error, not a signal.
        signal(SIGPIPE, SIG_IGN)
        self.socket = socket
        socket.block(for: deadline)
        session = try TLSClientStream(fileDescriptor: socket.fileDescriptor, context: context, serverName: host)
        socket.unblock()
    }

    deinit { session.close() }

    var fileDescriptor: Int32 { socket.fileDescriptor }
    var hasBufferedInput: Bool { session.hasDecryptedBytes }

    func read(into buffer: UnsafeMutableRawBufferPointer, deadline: Deadline) -> SocketStream.ReadResult {
        while true {
            do {
                switch try session.read(into: buffer) {
                case .bytes(let count): return .bytes(count)
                case .end: return .endOfStream
                case .wouldBlock: guard socket.wait(for: Int32(POLLIN), deadline) else { return .timedOut }
                }
            } catch {
                return .failed("\(error)")
            }
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, deadline: Deadline) -> String? {
        do {
            try session.write(bytes)
            return nil
        } catch {
            return "\(error)"
        }
    }
}

extension SocketStream {
    /// Makes calls on the descriptor wait, each at most until the deadline.
    func block(for deadline: Deadline) {
        let milliseconds = max(1, Int(deadline.pollMilliseconds))
        var timeout = timeval(tv_sec: milliseconds / 1000, tv_usec: milliseconds % 1000 * 1000)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(fileDescriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, size)
        setsockopt(fileDescriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, size)
        _ = fcntl(fileDescriptor, F_SETFL, fcntl(fileDescriptor, F_GETFL) & ~O_NONBLOCK)
    }

    func unblock() {
        _ = fcntl(fileDescriptor, F_SETFL, fcntl(fileDescriptor, F_GETFL) | O_NONBLOCK)
    }
}
