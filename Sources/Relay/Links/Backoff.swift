/// How long to wait before connecting anew: each time up to twice as long, and never as long as the others wait
/// ("Exponential Backoff And Jitter", with half of the pause left to chance).
package struct Backoff {
    private static let first = 0.5
    private static let longest = 30.0
    /// A connection that lived so long begins anew: one that is taken and closed at once must not.
    private static let settled = 10.0

    private var next = Backoff.first
    package init() {}

    /// Seconds to wait; `chance` is a random number from 0 up to 1.
    package mutating func pause(chance: Double) -> Double {
        defer { next = min(next * 2, Self.longest) }
        return next * (0.5 + chance / 2)
    }

    /// A connection has ended that lived for so many seconds.
    package mutating func ended(after seconds: Double) {
        if seconds >= Self.settled { next = Self.first }
    }
}
