/// What one end of a channel still lets the other send: grants of its connection's peer on their way to the sender.
///
/// The relay passes on only what it is ready to hold itself: what the sender may send and what waits here are never
/// more than `limit` together. Grants beyond are held back, and none is lost.
struct ReceiveWindow: Equatable {
    /// The sender knows of so many bytes and has not used them.
    private(set) var promised = 0
    /// Granted by the receiver, unknown to the sender.
    private(set) var held = 0

    /// More than a frame of 32 bits can ever say at once: a receiver that has granted so much is broken.
    static let maximumBytes = 1 << 40

    /// The receiver grants `bytes` more; false where that cannot be meant.
    mutating func grant(_ bytes: Int) -> Bool {
        guard held + bytes <= Self.maximumBytes else { return false }
        held += bytes
        return true
    }

    /// Bytes have come.
    @inline(__always)
    mutating func take(_ bytes: Int) { promised &-= bytes }

    /// What the sender is to be told now, where `queued` bytes wait for the receiver. Not in driblets: all there is, or
    /// half of the limit.
    mutating func passOn(queued: Int, limit: Int) -> Int {
        let room = limit - promised - queued
        guard held > 0, room >= min(held, max(1, limit / 2)) else { return 0 }
        let bytes = min(held, room, Int(UInt32.max))
        held -= bytes
        promised += bytes
        return bytes
    }
}
