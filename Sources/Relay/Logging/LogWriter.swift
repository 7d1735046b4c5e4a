import CLinux
import Glibc
package import Logging
import Synchronization

/// Writes log lines from a thread of its own, so that a reader who is slow, gone or out of disk space costs the relay
/// nothing but the lines: callers only append to a bounded queue.
///
/// `level` and `format` may be changed at any time from any thread.
package final class LogWriter: @unchecked Sendable {
    // Unchecked: `queue` and the three flags are only touched while `mutex` is held, `hasTornLine` only by the thread;
    // the rest never changes or is atomic.
    private let descriptor: Int32
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    /// Signalled when there is something to write, and when the thread must look again.
    private let hasWork: UnsafeMutablePointer<pthread_cond_t>
    /// Signalled when everything that was queued has been written or given up.
    private let isIdle: UnsafeMutablePointer<pthread_cond_t>
    private var queue = LogQueue()
    private var isWriting = false
    private var isStopping = false
    private var isRunning = true
    /// The file took a part of a line before it failed: the next byte must be a line feed.
    private var hasTornLine = false

    private let levelIndex: Atomic<Int>
    private let isJSON: Atomic<Bool>

    /// Starts the thread. `descriptor` stays the caller's and must stay open as long as the writer.
    package init(descriptor: Int32 = 2, level: Logger.Level = .info, format: Configuration.LogFormat = .text) {
        self.descriptor = descriptor
        levelIndex = Atomic(Self.index(of: level))
        isJSON = Atomic(format == .json)
        mutex = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        hasWork = Self.makeCondition()
        isIdle = Self.makeCondition()
        // The thread inherits a mask with every signal blocked: signals belong to the event loop's signalfd, and a
        // SIGPIPE of its own writes must stay the EPIPE that the write returns.
        var all = sigset_t(), before = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_SETMASK, &all, &before)
        let unmanaged = Unmanaged.passRetained(self)
        var thread = pthread_t()
        let status = pthread_create(
            &thread, nil,
            { context in
                // SAFETY: `context` is the retained writer that `init` passed; this takes the reference over.
                guard let context else { return nil }
                Unmanaged<LogWriter>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, unmanaged.toOpaque())
        pthread_sigmask(SIG_SETMASK, &before, nil)
        if status == 0 {
            pthread_detach(thread)
        } else {
            // No thread, no log; the relay can do without.
            unmanaged.release()
            isRunning = false
        }
    }

    deinit {
        // The thread holds a reference while it runs, so it has ended: nobody waits on these.
        pthread_cond_destroy(hasWork)
        pthread_cond_destroy(isIdle)
        pthread_mutex_destroy(mutex)
        hasWork.deallocate()
        isIdle.deallocate()
        mutex.deallocate()
    }

    /// The least severe level that is logged.
    package var level: Logger.Level {
        get { Self.levels[levelIndex.load(ordering: .relaxed)] }
        set { levelIndex.store(Self.index(of: newValue), ordering: .relaxed) }
    }

    package var format: Configuration.LogFormat {
        get { isJSON.load(ordering: .relaxed) ? .json : .text }
        set { isJSON.store(newValue == .json, ordering: .relaxed) }
    }

    /// Queues one entry; never waits for the file and never fails.
    package func write(level: Logger.Level, message: String, metadata: Logger.Metadata) {
        let line = LogLine.make(format, time: Self.civilTime(), level: level, message: message, metadata: metadata)
        let now = Self.monotonicNanoseconds()
        pthread_mutex_lock(mutex)
        if isRunning {
            queue.append(line, now: now)
            pthread_cond_signal(hasWork)
        }
        pthread_mutex_unlock(mutex)
    }

    /// Waits until what was queued before is written, or until `timeout` has passed: a reader who stopped reading must
    /// not keep the relay from exiting.
    package func flush(timeout: Duration = .seconds(2)) {
        var deadline = Self.deadline(after: timeout.nanoseconds)
        pthread_mutex_lock(mutex)
        while isRunning, isWriting || !queue.bytes.isEmpty {
            if pthread_cond_timedwait(isIdle, mutex, &deadline) != 0 { break }
        }
        pthread_mutex_unlock(mutex)
    }

    /// Writes what is queued, with the sum of what was left out, and ends the thread. Later entries are lost. A writer
    /// that is never stopped lives as long as the process.
    package func stop(timeout: Duration = .seconds(2)) {
        var deadline = Self.deadline(after: timeout.nanoseconds)
        pthread_mutex_lock(mutex)
        isStopping = true
        pthread_cond_signal(hasWork)
        while isRunning {
            if pthread_cond_timedwait(isIdle, mutex, &deadline) != 0 { break }
        }
        pthread_mutex_unlock(mutex)
    }

    // MARK: The thread

    private func run() {
        pthread_mutex_lock(mutex)
        while true {
            let now = Self.monotonicNanoseconds()
            var batch = queue.takeBytes()
            let gap = queue.takeGap(now: now, isLast: isStopping)
            if let gap { batch.append(contentsOf: line(for: gap)) }
            guard !batch.isEmpty else {
                pthread_cond_broadcast(isIdle)
                if isStopping { break }
                wait(until: queue.gapDelay(now: now).map { Self.deadline(after: $0) })
                continue
            }
            isWriting = true
            pthread_mutex_unlock(mutex)
            let unwritten = writeAll(batch)
            pthread_mutex_lock(mutex)
            isWriting = false
            guard unwritten > 0 else { continue }
            // The line about the gap was the last: what it told is still untold, and itself is no loss.
            queue.putBack(LogQueue.Gap(dropped: unwritten - (gap == nil ? 0 : 1)))
            if let gap { queue.putBack(gap) }
            if isStopping { break }
            // A full disk stays full for a while. What comes meanwhile waits in the queue.
            pthread_cond_broadcast(isIdle)
            let retry = Self.deadline(after: Self.retryNanoseconds)
            while !isStopping, wait(until: retry) {}
        }
        isRunning = false
        pthread_cond_broadcast(isIdle)
        pthread_mutex_unlock(mutex)
    }

    /// Waits for `hasWork`; false where the deadline came first.
    @discardableResult
    private func wait(until deadline: timespec?) -> Bool {
        guard var deadline else { return pthread_cond_wait(hasWork, mutex) == 0 }
        return pthread_cond_timedwait(hasWork, mutex, &deadline) == 0
    }

    /// Writes as much as the file takes; returns how many lines it did not take whole.
    private func writeAll(_ batch: [UInt8]) -> Int {
        let bytes = hasTornLine ? [UInt8(ascii: "\n")] + batch : batch
        return bytes.withUnsafeBytes { buffer in
            var rest = buffer[...]
            while !rest.isEmpty {
                let count = Glibc.write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
                if count > 0 {
                    rest = rest.dropFirst(count)
                } else if count < 0, errno == EAGAIN {
                    // Standard error may be shared with a program that made it non-blocking.
                    var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    _ = Glibc.poll(&poll, 1, 1000)
                } else if count == 0 || errno != EINTR {
                    break
                }
            }
            let written = buffer.count - rest.count
            if written > 0 { hasTornLine = buffer[written - 1] != UInt8(ascii: "\n") }
            return rest.reduce(0) { $0 + ($1 == UInt8(ascii: "\n") ? 1 : 0) }
        }
    }

    private func line(for gap: LogQueue.Gap) -> [UInt8] {
        var reasons: Logger.Metadata = [:]
        if gap.dropped > 0 { reasons["unwritable"] = "\(gap.dropped)" }
        if gap.suppressed > 0 { reasons["beyondRate"] = "\(gap.suppressed)" }
        return LogLine.make(
            format, time: Self.civilTime(), level: .warning,
            message: "\(gap.dropped + gap.suppressed) log lines dropped", metadata: reasons)
    }

    // MARK: Levels and clocks

    private static let levels = Logger.Level.allCases
    private static let retryNanoseconds: Int64 = 1_000_000_000

    private static func index(of level: Logger.Level) -> Int { levels.firstIndex(of: level) ?? 0 }

    private static func makeCondition() -> UnsafeMutablePointer<pthread_cond_t> {
        let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
        return condition
    }

    private static func monotonicNanoseconds() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    private static func deadline(after nanoseconds: Int64) -> timespec {
        let (sum, over) = monotonicNanoseconds().addingReportingOverflow(nanoseconds)
        let end = over ? Int64.max : sum
        return timespec(tv_sec: Int(end / 1_000_000_000), tv_nsec: Int(end % 1_000_000_000))
    }

    private static func civilTime() -> CivilTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return CivilTime(secondsSince1970: Int64(time.tv_sec), nanoseconds: Int64(time.tv_nsec))
    }
}
