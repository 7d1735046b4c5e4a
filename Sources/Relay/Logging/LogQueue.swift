/// What waits to be written: whole lines in one run of bytes, bounded, and no more than so many a second. Pure: time
/// comes in as nanoseconds of a clock that never steps.
struct LogQueue {
    /// Lines that were left out.
    struct Gap: Equatable {
        /// The queue was full, or the file did not take them.
        var dropped = 0
        /// Too many came within a second.
        var suppressed = 0
        var isEmpty: Bool { dropped == 0 && suppressed == 0 }
    }

    /// Enough for a second at full rate with lines of 1 KiB.
    static let maximumBytes = 1 << 20
    static let linesPerSecond = 1000
    private static let second: Int64 = 1_000_000_000

    private(set) var bytes: [UInt8] = []
    private var gap = Gap()
    private var windowStart: Int64 = 0
    private var linesInWindow = 0

    /// Takes a line, or counts it.
    mutating func append(_ line: [UInt8], now: Int64) {
        if now - windowStart >= Self.second {
            windowStart = now
            linesInWindow = 0
        }
        guard linesInWindow < Self.linesPerSecond else {
            gap.suppressed += 1
            return
        }
        guard bytes.count + line.count <= Self.maximumBytes else {
            gap.dropped += 1
            return
        }
        linesInWindow += 1
        bytes.append(contentsOf: line)
    }

    /// The waiting bytes. The queue is then empty.
    mutating func takeBytes() -> [UInt8] {
        var taken: [UInt8] = []
        swap(&taken, &bytes)
        return taken
    }

    /// What to say of the lines left out so far; counting starts anew. Suppressed lines are told once their second is
    /// over, all of them together, unless this is the last chance.
    mutating func takeGap(now: Int64, isLast: Bool = false) -> Gap? {
        let isOver = isLast || now - windowStart >= Self.second
        let taken = Gap(dropped: gap.dropped, suppressed: isOver ? gap.suppressed : 0)
        guard !taken.isEmpty else { return nil }
        gap.dropped -= taken.dropped
        gap.suppressed -= taken.suppressed
        return taken
    }

    /// Counts lines that were taken and then not written.
    mutating func putBack(_ lost: Gap) {
        gap.dropped += lost.dropped
        gap.suppressed += lost.suppressed
    }

    /// Nanoseconds until `takeGap` has something to say; nil where nothing was left out.
    func gapDelay(now: Int64) -> Int64? {
        if gap.isEmpty { return nil }
        return gap.dropped > 0 ? 0 : max(0, windowStart + Self.second - now)
    }
}
