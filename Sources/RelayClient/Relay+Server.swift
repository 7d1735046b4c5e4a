extension Relay {
    /// This program as a server of the relay. Iterating over it yields the channels that clients open, each accepted as
    /// it is taken; it ends when the server is closed, and throws `ClientFailure` when the relay wants no more of it,
    /// as after another connection has taken the name over. While the connection is lost it waits for the next one.
    public final class Server: AsyncSequence, Sendable {
        public typealias Element = Channel

        private let side: Confined<ServerSide>
        private let offers: Arrivals<ServerSide.Offered>
        private let inbox: Inbox

        init(_ side: Confined<ServerSide>, _ offers: Arrivals<ServerSide.Offered>, _ inbox: Inbox) {
            self.side = side
            self.offers = offers
            self.inbox = inbox
        }

        deinit { close() }

        /// Leaves the relay; channels that are open end with it.
        public func close() {
            let side = side
            inbox.post { _ in side.value.close() }
        }

        public struct AsyncIterator: AsyncIteratorProtocol {
            fileprivate let server: Server

            public mutating func next() async throws -> Channel? {
                while let offer = try await server.offers.next() {
                    // It is over by now where its client did not wait.
                    if await server.serve(offer) { return server.channel(offer) }
                }
                return nil
            }
        }

        public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(server: self) }

        private func serve(_ offer: ServerSide.Offered) async -> Bool {
            await withCheckedContinuation { done in
                let isPosted = inbox.post { _ in done.resume(returning: offer.end.value.serve()) }
                if !isPosted { done.resume(returning: false) }
            }
        }

        private func channel(_ offer: ServerSide.Offered) -> Channel {
            Channel(
                offer.end, offer.messages, inbox: inbox, server: "\(offer.request.server)", port: offer.request.port,
                remoteAddress: offer.request.remoteAddress, metadata: offer.request.metadata)
        }
    }
}
