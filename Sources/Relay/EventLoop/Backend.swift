internal import Logging

/// The kernel's interface that a loop uses: the contract of Completion.swift, decided once and called without a table
/// of witnesses in between.
enum Backend {
    case epoll(EpollBackend)
    case uring(UringBackend)

    /// One backend for each of `count` loops, all of one kind. `auto` is io_uring where the kernel has and allows it:
    /// containers often forbid it by a seccomp profile.
    static func make(
        _ choice: Configuration.IOBackend, count: Int, logger: Logger
    ) throws(StartError) -> [Backend] {
        switch choice {
        case .epoll:
            return try make(count, epoll)
        case .ioUring:
            do { return try make(count, uring) } catch {
                throw StartError("io_uring cannot be used: \(error). Use --io epoll, or --io auto.")
            }
        case .auto:
            do { return try make(count, uring) } catch {
                logger.notice("using epoll: io_uring is not available", metadata: ["reason": "\(error)"])
                return try make(count, epoll)
            }
        }
    }

    private static func epoll() throws(StartError) -> Backend { .epoll(try EpollBackend()) }
    private static func uring() throws(StartError) -> Backend { .uring(try UringBackend()) }

    private static func make(
        _ count: Int, _ one: () throws(StartError) -> Backend
    ) throws(StartError) -> [Backend] {
        var made: [Backend] = []
        for _ in 0..<count { made.append(try one()) }
        return made
    }

    /// The calling thread is the one that uses it from now on.
    func start() {
        if case .uring(let backend) = self { backend.start() }
    }

    @inline(__always)
    func add(_ handle: inout IOHandle) -> Bool {
        switch self {
        case .epoll(let backend): backend.add(&handle)
        case .uring(let backend): backend.add(&handle)
        }
    }

    @inline(__always)
    func pauseReceive(_ handle: inout IOHandle) {
        switch self {
        case .epoll(let backend): backend.pauseReceive(&handle)
        case .uring(let backend): backend.pauseReceive(&handle)
        }
    }

    @inline(__always)
    func resumeReceive(_ handle: inout IOHandle) {
        switch self {
        case .epoll(let backend): backend.resumeReceive(&handle)
        case .uring(let backend): backend.resumeReceive(&handle)
        }
    }

    @inline(__always)
    func send(_ handle: inout IOHandle, _ output: borrowing OutboundBuffer) -> SendOutcome {
        switch self {
        case .epoll(let backend): backend.send(&handle, output)
        case .uring(let backend): backend.send(&handle, output)
        }
    }

    func release(_ handle: inout IOHandle) -> Bool {
        switch self {
        case .epoll(let backend): backend.release(&handle)
        case .uring(let backend): backend.release(&handle)
        }
    }

    func close(_ handle: inout IOHandle, abandoning output: consuming OutboundBuffer?) {
        switch self {
        case .epoll(let backend): backend.close(&handle)
        case .uring(let backend): backend.close(&handle, abandoning: output)
        }
    }

    @inline(__always)
    func wait(timeoutMilliseconds: Int32) {
        switch self {
        case .epoll(let backend): backend.wait(timeoutMilliseconds: timeoutMilliseconds)
        case .uring(let backend): backend.wait(timeoutMilliseconds: timeoutMilliseconds)
        }
    }

    @inline(__always)
    func next(_ table: ConnectionTable) -> Completion? {
        switch self {
        case .epoll(let backend): backend.next(table)
        case .uring(let backend): backend.next(table)
        }
    }
}
