/// A connected stream of bytes: a socket, or TLS over one.
protocol ByteStream: AnyObject {
    var fileDescriptor: Int32 { get }
    /// Whether a read would find something although the socket has nothing new.
    var hasBufferedInput: Bool { get }
    func read(into buffer: UnsafeMutableRawBufferPointer, deadline: Deadline) -> SocketStream.ReadResult
    /// Writes everything; the reason where it could not.
    func write(_ bytes: UnsafeRawBufferPointer, deadline: Deadline) -> String?
}

extension SocketStream: ByteStream {
    var hasBufferedInput: Bool { false }
}
