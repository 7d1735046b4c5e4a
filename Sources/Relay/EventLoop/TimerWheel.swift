/// Names one timer of a `TimerWheel`. A timer that has fired or was cancelled is never mistaken for a later one that
/// uses its place.
struct TimerID: Hashable, Sendable {
    fileprivate let index: Int32
    fileprivate let generation: UInt32
}

/// The timers of one loop: thousands of deadlines that are mostly moved or cancelled before they come.
///
/// A hierarchy of wheels (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987): four levels of 256
/// buckets, a bucket of level L spanning 256^L ticks of one millisecond. A timer lies at the level of the highest byte
/// in which its deadline differs from the current tick, in the bucket which that byte names:
///
///     deadline  00 00 01 2C        level 3, 2 and 1: equal to `current` or not?
///     current   00 00 00 F0        the first that differs is level 1: bucket 01 of level 1
///
/// When the current tick enters a bucket's span, its timers move down to where they belong then; those of level 0 fire.
/// Thus every bucket of a level lies after `current` and before every bucket of the levels above it, the next deadline
/// is found by one bit scan per level, and timers of one deadline fire in the order in which they were scheduled. What
/// is further away than 2^32 ticks (49 days) waits in one bucket above them all.
struct TimerWheel {
    private static let levels = 4
    private static let bucketsPerLevel = 256
    private static let farBucket = levels * bucketsPerLevel
    private static let none: Int32 = -1

    /// One timer, or one free place. Places of a bucket form a list in both directions; free ones a list by `next`.
    private struct Node {
        var deadline: UInt64
        var payload: UInt64
        var next: Int32
        var previous: Int32
        /// Counts the timers that this place has held. Odd while it holds one.
        var generation: UInt32
        var bucket: Int32
    }

    private struct Bucket {
        var first = TimerWheel.none
        var last = TimerWheel.none
    }

    private var nodes: [Node] = []
    private var firstFree = TimerWheel.none
    private var buckets = [Bucket](repeating: Bucket(), count: TimerWheel.farBucket + 1)
    /// A bit for each bucket of the four levels that is not empty, 64 to a word.
    private var occupied = [UInt64](repeating: 0, count: TimerWheel.farBucket / 64)
    /// Every timer with a deadline before this tick has fired; the others lie where this tick says.
    private var current: UInt64 = 0
    /// No timer of the far bucket has a deadline before this. Cancelling does not change it.
    private var earliestFar = UInt64.max
    /// Timers that have neither fired nor been cancelled.
    private(set) var count = 0

    init() {}

    /// Adds a timer that fires when `advance` reaches `deadline` (milliseconds of the clock that `advance` is given),
    /// or at the next call where that is past. `payload` is what comes out then.
    mutating func schedule(at deadline: UInt64, payload: UInt64) -> TimerID {
        let index = takePlace()
        nodes[Int(index)].deadline = max(deadline, current)
        nodes[Int(index)].payload = payload
        link(index)
        count += 1
        return TimerID(index: index, generation: nodes[Int(index)].generation)
    }

    /// Takes a timer away; false where it has fired or was cancelled already, which is harmless.
    @discardableResult
    mutating func cancel(_ timer: TimerID) -> Bool {
        guard timer.index >= 0, Int(timer.index) < nodes.count,
            nodes[Int(timer.index)].generation == timer.generation
        else { return false }
        unlink(timer.index)
        freePlace(timer.index)
        count -= 1
        return true
    }

    /// Appends the payloads of all timers with a deadline up to `now` to `expired`, by deadline, those of one deadline
    /// as they were scheduled. A `now` before an earlier one changes nothing.
    mutating func advance(to now: UInt64, _ expired: inout [UInt64]) {
        while let (bucket, tick) = nextBucket, tick <= now {
            current = tick
            if bucket < Self.bucketsPerLevel { fire(bucket, &expired) } else { moveDown(bucket) }
        }
        current = max(current, now)
    }

    /// When to call `advance` next: the earliest deadline where it lies in the present span of 256 ticks, else a time
    /// before it at which timers move down a level: a loop wakes for nothing at most once a timer and level. Nil
    /// without timers.
    var nextDeadline: UInt64? { nextBucket?.tick }

    /// The first bucket that is not empty, and the tick at which its span begins.
    private var nextBucket: (bucket: Int, tick: UInt64)? {
        for level in 0..<Self.levels {
            let shift = UInt64(8 * level)
            let position = Int((current >> shift) & 0xFF)
            guard let found = firstOccupied(level, from: position) else { continue }
            let above = (current >> (shift + 8)) << (shift + 8)
            return (level * Self.bucketsPerLevel + found, above | UInt64(found) << shift)
        }
        guard buckets[Self.farBucket].first != Self.none else { return nil }
        // Behind `current` where the timer that `earliestFar` remembers was cancelled.
        return (Self.farBucket, max(current, (earliestFar >> 32) << 32))
    }

    /// The first bucket of `level`, at or after `start`, that is not empty.
    private func firstOccupied(_ level: Int, from start: Int) -> Int? {
        let wordsPerLevel = Self.bucketsPerLevel / 64
        var word = start / 64
        var bits = occupied[level * wordsPerLevel + word] & (UInt64.max << UInt64(start % 64))
        while bits == 0 {
            word += 1
            guard word < wordsPerLevel else { return nil }
            bits = occupied[level * wordsPerLevel + word]
        }
        return word * 64 + bits.trailingZeroBitCount
    }

    /// Empties a bucket of level 0, all of whose timers have the deadline `current`.
    private mutating func fire(_ bucket: Int, _ expired: inout [UInt64]) {
        var index = detach(bucket)
        while index != Self.none {
            let next = nodes[Int(index)].next
            expired.append(nodes[Int(index)].payload)
            freePlace(index)
            count -= 1
            index = next
        }
    }

    /// Puts the timers of a bucket whose span `current` has entered where they belong now.
    private mutating func moveDown(_ bucket: Int) {
        if bucket == Self.farBucket { earliestFar = .max }
        var index = detach(bucket)
        while index != Self.none {
            let next = nodes[Int(index)].next
            link(index)
            index = next
        }
    }
}

// Places and lists.
extension TimerWheel {
    private mutating func takePlace() -> Int32 {
        let index: Int32
        if firstFree == Self.none {
            index = Int32(nodes.count)
            nodes.append(
                Node(deadline: 0, payload: 0, next: Self.none, previous: Self.none, generation: 0, bucket: Self.none))
        } else {
            index = firstFree
            firstFree = nodes[Int(index)].next
        }
        nodes[Int(index)].generation &+= 1
        return index
    }

    private mutating func freePlace(_ index: Int32) {
        nodes[Int(index)].generation &+= 1
        nodes[Int(index)].next = firstFree
        firstFree = index
    }

    /// Appends the timer to the bucket that its deadline belongs to at `current`.
    private mutating func link(_ index: Int32) {
        let deadline = nodes[Int(index)].deadline
        let difference = deadline ^ current
        let bucket: Int
        if difference >> 32 != 0 {
            bucket = Self.farBucket
            earliestFar = min(earliestFar, deadline)
        } else {
            let level = difference == 0 ? 0 : (63 - difference.leadingZeroBitCount) / 8
            bucket = level * Self.bucketsPerLevel + Int((deadline >> UInt64(8 * level)) & 0xFF)
            occupied[bucket / 64] |= 1 << UInt64(bucket % 64)
        }
        let last = buckets[bucket].last
        nodes[Int(index)].bucket = Int32(bucket)
        nodes[Int(index)].previous = last
        nodes[Int(index)].next = Self.none
        if last == Self.none { buckets[bucket].first = index } else { nodes[Int(last)].next = index }
        buckets[bucket].last = index
    }

    private mutating func unlink(_ index: Int32) {
        let node = nodes[Int(index)]
        let bucket = Int(node.bucket)
        if node.previous == Self.none {
            buckets[bucket].first = node.next
        } else {
            nodes[Int(node.previous)].next = node.next
        }
        if node.next == Self.none {
            buckets[bucket].last = node.previous
        } else {
            nodes[Int(node.next)].previous = node.previous
        }
        if buckets[bucket].first == Self.none { markEmpty(bucket) }
    }

    /// Empties a bucket and returns the first of its timers, which still hang together.
    private mutating func detach(_ bucket: Int) -> Int32 {
        let first = buckets[bucket].first
        buckets[bucket] = Bucket()
        markEmpty(bucket)
        return first
    }

    private mutating func markEmpty(_ bucket: Int) {
        guard bucket < Self.farBucket else { return }
        occupied[bucket / 64] &= ~(1 << UInt64(bucket % 64))
    }
}
