extension Relay {
    /// One end of a channel between a client and a server: messages go both ways, and a sender waits for a receiver
    /// that is slower. Iterating over it yields what comes, until the other end sends no more; it throws `ChannelClose`
    /// where the channel ends otherwise. Letting go of it closes it.
    public final class Channel: AsyncSequence, Sendable {
        public typealias Element = Message

        /// The server that it leads to, or that it was opened to.
        public let server: String
        public let port: UInt16
        /// On a server: the client's address, as the relay sees it. Else empty.
        public let remoteAddress: String
        /// On a server: what a script of the relay has added. Else null.
        public let metadata: JSONValue

        private let place: Confined<ProgramEnd>
        private let messages: Arrivals<ProgramEnd.Arrived>
        private let inbox: Inbox

        init(
            _ place: Confined<ProgramEnd>, _ messages: Arrivals<ProgramEnd.Arrived>, inbox: Inbox, server: String,
            port: UInt16,
            remoteAddress: String = "", metadata: JSONValue = .null
        ) {
            self.place = place
            self.messages = messages
            self.inbox = inbox
            self.server = server
            self.port = port
            self.remoteAddress = remoteAddress
            self.metadata = metadata
        }

        deinit { close() }

        /// Sends a message; returns when all of it is on its way, which is when the other end has room for it.
        public func send(_ message: Message) async throws {
            let (place, inbox) = (place, inbox)
            try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
                let isPosted = inbox.post { _ in
                    switch message {
                    case .text(let text): place.value.send(Array(text.utf8), isText: true, done)
                    case .binary(let bytes): place.value.send(bytes, isText: false, done)
                    }
                }
                if !isPosted { done.resume(throwing: ClientLoop.stopped) }
            }
        }

        public func send(_ text: String) async throws { try await send(.text(text)) }
        public func send(_ bytes: [UInt8]) async throws { try await send(.binary(bytes)) }

        /// Says that nothing more will be sent. What the other end sends still comes.
        public func end() {
            let place = place
            inbox.post { _ in place.value.endSending() }
        }

        /// Ends both directions. Codes: 1000, 1001, or 3000 to 4999.
        public func close(code: UInt16 = 1000, reason: String = "") {
            let place = place
            inbox.post { _ in place.value.closeBoth(ChannelClose(code, reason)) }
        }

        public struct AsyncIterator: AsyncIteratorProtocol {
            fileprivate let channel: Channel

            public mutating func next() async throws -> Message? {
                guard let arrived = try await channel.messages.next() else { return nil }
                let place = channel.place
                if arrived.bytes > 0 { channel.inbox.post { _ in place.value.consume(arrived.bytes) } }
                return arrived.message
            }
        }

        public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(channel: self) }
    }
}
