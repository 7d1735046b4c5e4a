import Synchronization

/// Names one connection, on whichever loop it lives; never reused while the relay runs.
package struct ConnectionID: Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
    package var description: String { String(rawValue) }

    private static let last = Atomic<UInt64>(0)

    /// The next id. Ids start at 1, so 0 can stand for "none" where a word is all there is.
    static func next() -> ConnectionID {
        ConnectionID(rawValue: last.wrappingAdd(1, ordering: .relaxed).newValue)
    }
}
