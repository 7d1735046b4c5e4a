import Relay

/// The channel numbers of one connection (docs/relay.v1.md, "Channel numbers"): ours are odd and ascend, the relay's
/// are even.
struct ChannelNumbers {
    private var lastOwn: UInt32?
    private var highestOfRelay: UInt32 = 0

    /// Our next number; nil where all are used up and only another connection has more.
    mutating func take() -> ChannelNumber? {
        guard lastOwn != .max else { return nil }
        let next = lastOwn.map { $0 + 2 } ?? 1
        lastOwn = next
        return ChannelNumber(next)
    }

    /// Whether a number is one of the relay's, which from now on counts as used. That it is used for the first time is
    /// the caller's to check: the relay has several sequences of them.
    mutating func admit(_ number: ChannelNumber) -> Bool {
        guard number.rawValue % 2 == 0 else { return false }
        highestOfRelay = max(highestOfRelay, number.rawValue)
        return true
    }

    /// Whether a channel may have had this number: what still comes for one that is over is ignored.
    func wasUsed(_ number: ChannelNumber) -> Bool {
        guard number.rawValue % 2 == 1 else { return number.rawValue <= highestOfRelay }
        return lastOwn.map { number.rawValue <= $0 } ?? false
    }
}
