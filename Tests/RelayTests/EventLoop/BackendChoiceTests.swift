import Glibc
import Synchronization
import Testing

@testable import Relay

/// Which backend `Backend.make` chooses, also where the kernel refuses io_uring as container runtimes make it do.
@Suite struct BackendChoiceTests {
    /// What came of a choice.
    private struct Outcome: Sendable {
        var backends: [BackendKind] = []
        var error: String?
        var log: [Substring] = []
    }

    private final class Outbox: Sendable {
        let outcome = Mutex(Outcome())
    }

    private static func make(_ choice: Configuration.IOBackend) throws -> Outcome {
        var outcome = Outcome()
        let (readEnd, writeEnd) = try LogWriterTests.makePipe()
        let writer = LogWriter(descriptor: writeEnd)
        do throws(StartError) {
            for backend in try Backend.make(choice, count: 3, logger: writer.makeLogger()) {
                if case .epoll = backend { outcome.backends.append(.epoll) } else { outcome.backends.append(.uring) }
            }
        } catch { outcome.error = "\(error)" }
        writer.stop()
        System.close(writeEnd)
        outcome.log = LogWriterTests.readAll(readEnd).split(separator: "\n")
        System.close(readEnd)
        return outcome
    }

    /// The same on a thread for which io_uring_setup(2) fails with EPERM: a filter of seccomp(2) binds one thread.
    private static func makeWhereRefused(_ choice: Configuration.IOBackend) throws -> Outcome {
        let outbox = Outbox()
        let thread = System.startThread(name: "refused") {
            do {
                try refuseUring()
                let outcome = try make(choice)
                outbox.outcome.withLock { $0 = outcome }
            } catch { outbox.outcome.withLock { $0.error = "the test failed: \(error)" } }
        }
        pthread_join(thread, nil)
        return outbox.outcome.withLock { $0 }
    }

    private static func refuseUring() throws {
        // prctl(2) is variadic in C, which Swift does not call; it takes words.
        typealias Prctl = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
        let prctl = unsafeBitCast(try #require(dlsym(nil, "prctl")), to: Prctl.self)
        // bpf_insn as linux/filter.h has it: code, jump if true, jump if false, constant.
        func instruction(_ code: UInt64, _ constant: UInt64, ifFalse: UInt64 = 0) -> UInt64 {
            code | ifFalse << 24 | constant << 32
        }
        let program = [
            instruction(0x20, 0),  // Load the number of the system call.
            instruction(0x15, 425, ifFalse: 1),  // io_uring_setup(2), on every architecture.
            instruction(0x06, 0x0005_0000 | UInt64(EPERM)),  // SECCOMP_RET_ERRNO
            instruction(0x06, 0x7FFF_0000),  // SECCOMP_RET_ALLOW
        ]
        try #require(prctl(38, 1, 0, 0, 0) == 0)  // PR_SET_NO_NEW_PRIVS
        let code = program.withUnsafeBytes { instructions in
            // struct sock_fprog: how many, and where.
            withUnsafeBytes(of: (UInt(program.count), instructions.baseAddress)) {
                prctl(22, 2, UInt(bitPattern: $0.baseAddress), 0, 0)  // PR_SET_SECCOMP, SECCOMP_MODE_FILTER
            }
        }
        try #require(code == 0)
    }

    @Test func `epoll is epoll, without a word`() throws {
        for outcome in [try Self.make(.epoll), try Self.makeWhereRefused(.epoll)] {
            #expect(outcome.backends == [.epoll, .epoll, .epoll])
            #expect(outcome.error == nil && outcome.log.isEmpty)
        }
    }

    @Test(.enabled(if: BackendKind.isUringAllowed, "the kernel has or allows no io_uring"))
    func `auto is io_uring where the kernel allows it, without a word`() throws {
        for choice in [Configuration.IOBackend.auto, .ioUring] {
            let outcome = try Self.make(choice)
            #expect(outcome.backends == [.uring, .uring, .uring])
            #expect(outcome.error == nil && outcome.log.isEmpty)
        }
    }

    @Test func `auto falls back to epoll where io_uring is refused, and says so once`() throws {
        let outcome = try Self.makeWhereRefused(.auto)
        #expect(outcome.error == nil)
        #expect(outcome.backends == [.epoll, .epoll, .epoll])
        try #require(outcome.log.count == 1)
        #expect(outcome.log[0].contains("using epoll: io_uring is not available"))
        #expect(outcome.log[0].contains("Operation not permitted"))
    }

    @Test func `io_uring that was asked for and is refused ends with what to do`() throws {
        let outcome = try Self.makeWhereRefused(.ioUring)
        #expect(outcome.backends.isEmpty && outcome.log.isEmpty)
        let error = try #require(outcome.error)
        #expect(error.contains("Operation not permitted"))
        #expect(error.contains("--io epoll"))
    }
}
