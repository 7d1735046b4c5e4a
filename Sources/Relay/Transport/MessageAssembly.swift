internal import Glibc

/// Puts a message together that arrived in pieces. Holds memory only while one is under way; its size is bounded by the
/// reader's `maximumMessageBytes`, which refuses a piece before it gets here.
struct MessageAssembly: ~Copyable {
    private var storage: UnsafeMutableRawPointer?
    private var capacity = 0
    private(set) var count = 0

    init() {}

    deinit { free(storage) }

    /// The message so far.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: storage, count: count) }

    mutating func append(_ piece: UnsafeRawBufferPointer) {
        guard let source = piece.baseAddress, piece.count > 0 else { return }
        if count + piece.count > capacity {
            // Doubling, so that a long message costs a constant number of copies per byte.
            capacity = max(capacity * 2, count + piece.count, 1024)
            // Out of memory, Swift itself ends the process; what one connection can ask for is bounded by the reader.
            guard let grown = realloc(storage, capacity) else { fatalError("out of memory") }
            storage = grown
        }
        // SAFETY: capacity was just made to hold count + piece.count bytes.
        memcpy(storage! + count, source, piece.count)
        count += piece.count
    }

    mutating func removeAll() {
        free(storage)
        storage = nil
        capacity = 0
        count = 0
    }
}
