import Glibc
import Relay

/// A connected socket, with TLS over it once `secure` has been called. Non-blocking underneath; every operation waits
/// with poll(2), for at most as long as it is told.
final class SocketStream {
    enum ReadResult {
        /// At least one byte.
        case bytes(Int)
        case endOfStream
        case timedOut
        case failed(String)
    }

    let fileDescriptor: Int32
    /// TLS, where there is any.
    private(set) var session: TLSSession?
    /// What the session wants to send.
    private var records = OutboundBuffer()
    private let pool = ChunkPool()
    /// Where ciphertext is received, which is lent to the session.
    private var ciphertext = UnsafeMutableRawBufferPointer(start: nil, count: 0)

    init(fileDescriptor: Int32) { self.fileDescriptor = fileDescriptor }

    /// The descriptor is somebody else's to close.
    var isSurrendered = false

    deinit {
        ciphertext.deallocate()
        if !isSurrendered { close(fileDescriptor) }
    }

    /// Waits until the socket is ready for `events` (or broken, which the next call reports); false at the deadline.
    func wait(for events: Int32, _ deadline: Deadline) -> Bool {
        while true {
            var poll = pollfd(fd: fileDescriptor, events: Int16(events), revents: 0)
            let count = Glibc.poll(&poll, 1, deadline.pollMilliseconds)
            if count > 0 { return true }
            if count == 0, deadline.hasPassed { return false }
            if count < 0, errno != EINTR { return true }
        }
    }

    /// Whether a read would find something although the socket has nothing new.
    var hasBufferedInput: Bool {
        guard let session else { return false }
        return session.hasDecryptedBytes || !session.unconsumed.isEmpty
    }

    /// Reads what is there, waiting for the first byte.
    func read(into buffer: UnsafeMutableRawBufferPointer, deadline: Deadline) -> ReadResult {
        guard let session else { return receive(into: buffer, deadline) }
        while true {
            let step = session.read(into: buffer, output: &records, pool: pool)
            // What a KeyUpdate was answered with; where it cannot be sent, the next read or write says so.
            _ = sendRecords(deadline)
            switch step {
            case .bytes(let count): return .bytes(count)
            case .closed: return .endOfStream
            case .failed(let failure): return .failed("\(failure)")
            case .needsInput: break
            }
            switch receive(into: ciphertext, deadline) {
            case .bytes(let count): session.receive(UnsafeRawBufferPointer(rebasing: ciphertext[..<count]))
            // Without TLS's own goodbye somebody may have cut the connection.
            case .endOfStream: return .failed("the connection was closed")
            case let other: return other
            }
        }
    }

    /// Writes everything; the reason where it could not.
    func write(_ bytes: UnsafeRawBufferPointer, deadline: Deadline) -> String? {
        guard let session else { return send(bytes, deadline) }
        switch session.write(bytes, output: &records, pool: pool) {
        case .written: return sendRecords(deadline)
        case .failed(let failure): return "\(failure)"
        }
    }

    private func receive(into buffer: UnsafeMutableRawBufferPointer, _ deadline: Deadline) -> ReadResult {
        while true {
            switch System.receive(fileDescriptor, into: buffer) {
            case .bytes(let count): return .bytes(count)
            case .endOfStream: return .endOfStream
            case .wouldBlock: guard wait(for: POLLIN, deadline) else { return .timedOut }
            case .failed(let code): return .failed(System.describe(errno: code))
            }
        }
    }

    private func send(_ bytes: UnsafeRawBufferPointer, _ deadline: Deadline) -> String? {
        var output = OutboundBuffer()
        output.append(bytes, from: pool)
        return send(&output, deadline)
    }

    private func sendRecords(_ deadline: Deadline) -> String? { send(&records, deadline) }

    private func send(_ output: inout OutboundBuffer, _ deadline: Deadline) -> String? {
        while !output.isEmpty {
            switch System.send(fileDescriptor, output) {
            case .bytes(let count): output.consume(count, to: pool)
            case .wouldBlock: guard wait(for: POLLOUT, deadline) else { return "the relay does not read what is sent" }
            case .failed(let code): return System.describe(errno: code)
            }
        }
        return nil
    }
}

// TLS.
extension SocketStream {
    /// 16 KiB is the longest record's plaintext (RFC 8446 §5.1).
    private static let ciphertextBytes = 64 << 10

    /// Shakes hands as a client; `host` is the name or address that the certificate must be for. The reason where it
    /// failed.
    func secure(_ context: TLSContext, host: String, deadline: Deadline) throws(TLSError) -> String? {
        let session = try TLSSession(client: context, serverName: host)
        ciphertext = .allocate(byteCount: Self.ciphertextBytes, alignment: 64)
        while true {
            let step = session.handshake(output: &records, pool: pool)
            // A fatal alert goes out as well.
            let failure = sendRecords(deadline)
            switch step {
            case .done:
                self.session = session
                return failure
            case .failed(let reason): return "\(reason)"
            case .needsInput: break
            }
            if let failure { return failure }
            switch receive(into: ciphertext, deadline) {
            case .bytes(let count): session.receive(UnsafeRawBufferPointer(rebasing: ciphertext[..<count]))
            case .timedOut: return "the peer did not answer in time"
            case .endOfStream: return "the connection was closed"
            case .failed(let reason): return reason
            }
        }
    }

    /// Hands out what has been received and not read, so that whoever takes the session over lends it ciphertext of its
    /// own from now on.
    func takeBufferedInput() -> [UInt8] {
        guard let session else { return [] }
        var bytes: [UInt8] = []
        var block = [UInt8](repeating: 0, count: Self.ciphertextBytes)
        while true {
            let step = block.withUnsafeMutableBytes { session.read(into: $0, output: &records, pool: pool) }
            guard case .bytes(let count) = step else { return bytes }
            bytes += block[..<count]
        }
    }

    /// Says TLS's goodbye, best effort.
    func sayGoodbye() {
        session?.shutdown(output: &records, pool: pool)
        _ = sendRecords(.now)
    }
}
