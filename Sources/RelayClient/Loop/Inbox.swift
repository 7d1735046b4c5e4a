internal import CLinux
import Glibc
import Synchronization

/// Where other threads leave work for a loop: taken all at once, so that a batch costs one wake-up.
final class Inbox: Sendable {
    typealias Work = @Sendable (ClientLoop) -> Void

    /// Becomes readable when there is something to take: an eventfd(2).
    let fileDescriptor: Int32
    /// Nil once the loop has ended.
    private let work = Mutex<[Work]?>([])

    init() {
        fileDescriptor = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        // Without descriptors for its own needs a client can do nothing, not even say so later.
        precondition(fileDescriptor >= 0, "cannot make an eventfd")
    }

    deinit { Glibc.close(fileDescriptor) }

    /// Leaves work; from any thread. That of one thread is done in order. False where the loop has ended: it will not
    /// be done.
    @discardableResult
    func post(_ item: @escaping Work) -> Bool {
        let count = work.withLock { work in
            work?.append(item)
            return work?.count
        }
        guard let count else { return false }
        if count == 1 {
            var one: UInt64 = 1
            _ = write(fileDescriptor, &one, MemoryLayout<UInt64>.size)
        }
        return true
    }

    /// Takes everything; only the loop does.
    func take() -> [Work] {
        var count: UInt64 = 0
        _ = read(fileDescriptor, &count, MemoryLayout<UInt64>.size)
        return replace(with: [])
    }

    /// Takes what is there, and nothing more from now on.
    func close() -> [Work] { replace(with: nil) }

    private func replace(with new: [Work]?) -> [Work] {
        work.withLock { work in
            defer { work = new }
            return work ?? []
        }
    }
}

/// Something of a loop's thread, on its way through another: nobody else may look at it there.
// SAFETY: `value` is used by code that runs on the loop's thread only; the box itself is immutable.
struct Confined<Value>: @unchecked Sendable {
    let value: Value
}
