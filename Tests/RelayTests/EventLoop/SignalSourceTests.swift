import Glibc
import Testing

@testable import Relay

/// In a process of their own, since signals and their masks belong to one. They are sent to the thread that blocks
/// them: the other threads of a test process were there before the mask.
@Suite struct SignalSourceTests {
    @Test func `signals wait to be read instead of ending the process`() async {
        await #expect(processExitsWith: .success) {
            let source = try SignalSource()
            #expect(source.next() == nil)
            pthread_kill(pthread_self(), SIGHUP)
            #expect(source.next() == .reload)
            #expect(source.next() == nil)
            pthread_kill(pthread_self(), SIGTERM)
            #expect(source.next() == .terminate)
            pthread_kill(pthread_self(), SIGINT)
            #expect(source.next() == .terminate)
            #expect(source.next() == nil)
        }
    }

    @Test func `writing to a peer that is gone is an error, not the end`() async {
        await #expect(processExitsWith: .success) {
            _ = try SignalSource()
            var ends: [Int32] = [0, 0]
            #expect(pipe(&ends) == 0)
            System.close(ends[0])
            #expect(write(ends[1], "x", 1) == -1)
            #expect(errno == EPIPE)
        }
    }
}
