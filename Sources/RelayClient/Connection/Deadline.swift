import Glibc

/// A moment on the clock that never steps.
package struct Deadline: Sendable {
    private let nanoseconds: Int64

    package static var now: Deadline { Deadline(nanoseconds: clock()) }
    package static func after(_ duration: Duration) -> Deadline {
        let (seconds, attoseconds) = duration.components
        return Deadline(nanoseconds: clock() + seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
    }

    private init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    package var hasPassed: Bool { Self.clock() >= nanoseconds }

    /// What poll(2) takes: rounded up, so that it does not return before the deadline; at most a day.
    package var pollMilliseconds: Int32 {
        Int32(clamping: min(86_400_000, max(0, (nanoseconds - Self.clock() + 999_999) / 1_000_000)))
    }

    private static func clock() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
