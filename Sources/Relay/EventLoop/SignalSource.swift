internal import CLinux
internal import Glibc

/// Signals as bytes to read: a signalfd(2) on the main loop. Made before any other thread, which then inherits the
/// mask, so that no signal ever interrupts one.
package final class SignalSource {
    package enum Signal {
        /// SIGTERM or SIGINT: drain; the second one exits at once.
        case terminate
        /// SIGHUP: read configuration and certificates again.
        case reload
    }

    package let fileDescriptor: Int32

    package init() throws(StartError) {
        // A peer that is gone is an error of send(2), not the end of the process.
        signal(SIGPIPE, SIG_IGN)
        var set = sigset_t()
        sigemptyset(&set)
        for number in [SIGTERM, SIGINT, SIGHUP] { sigaddset(&set, number) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
        fileDescriptor = signalfd(-1, &set, Int32(SFD_CLOEXEC | SFD_NONBLOCK))
        guard fileDescriptor >= 0 else {
            throw StartError("cannot create a signalfd: \(System.describe(errno: errno))")
        }
    }

    deinit { System.close(fileDescriptor) }

    /// The next signal that waits; nil when none does.
    package func next() -> Signal? {
        var info = signalfd_siginfo()
        guard read(fileDescriptor, &info, MemoryLayout<signalfd_siginfo>.size) > 0 else { return nil }
        return Int32(bitPattern: info.ssi_signo) == SIGHUP ? .reload : .terminate
    }
}
