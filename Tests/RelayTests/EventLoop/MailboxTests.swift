import Glibc
import Testing

@testable import Relay

@Suite struct MailboxTests {
    /// Waits until there is something to take; false where nothing came within the deadline.
    private func isReadable(_ mailbox: Mailbox, within milliseconds: Int32 = 0) -> Bool {
        var descriptor = pollfd(fd: mailbox.fileDescriptor, events: Int16(POLLIN), revents: 0)
        return poll(&descriptor, 1, milliseconds) == 1
    }

    /// The names in what was taken; messages of this test are `.removeApp`.
    private func names(_ messages: [LoopMessage]) -> [String] {
        messages.compactMap { if case .removeApp(let name, _) = $0 { name } else { nil } }
    }

    @Test func `an empty box is not readable, and taking from it does not block`() throws {
        let mailbox = try Mailbox()
        #expect(!isReadable(mailbox))
        #expect(mailbox.take().isEmpty)
        #expect(!isReadable(mailbox))
    }

    @Test func `everything is taken at once, in order, and wakes once`() throws {
        let mailbox = try Mailbox()
        for name in ["a", "b", "c"] { mailbox.post(.removeApp(name, serial: 0)) }
        #expect(isReadable(mailbox))
        #expect(names(mailbox.take()) == ["a", "b", "c"])
        #expect(!isReadable(mailbox))
        #expect(mailbox.take().isEmpty)
    }

    @Test func `a box that was emptied wakes again`() throws {
        let mailbox = try Mailbox()
        for name in ["a", "b", "c"] {
            mailbox.post(.removeApp(name, serial: 0))
            #expect(isReadable(mailbox))
            #expect(names(mailbox.take()) == [name])
        }
    }

    @Test func `nothing that several threads post is lost, and each one's order is kept`() throws {
        let mailbox = try Mailbox()
        let senders = 4
        let messagesPerSender = 2000
        let threads = (0..<senders).map { sender in
            System.startThread(name: "sender \(sender)") {
                for number in 0..<messagesPerSender { mailbox.post(.removeApp("\(sender) \(number)", serial: 0)) }
            }
        }
        var taken: [String] = []
        while taken.count < senders * messagesPerSender {
            // A wake-up that is lost shows here.
            try #require(isReadable(mailbox, within: 30_000), "after \(taken.count) messages")
            taken += names(mailbox.take())
        }
        for thread in threads { pthread_join(thread, nil) }
        #expect(mailbox.take().isEmpty)
        for sender in 0..<senders {
            #expect(
                taken.filter { $0.hasPrefix("\(sender) ") } == (0..<messagesPerSender).map { "\(sender) \($0)" })
        }
    }
}
