import Relay

/// One end of a channel, as the loop holds it: the protocol's state, and whatever takes and gives the bytes, which a
/// subclass knows.
class ChannelEnd: Watched {
    final var state: ChannelState
    final let number: ChannelNumber
    /// The connection that carries the channel; nil once the channel is over, or the connection gone.
    final var link: Link?
    /// Waits for its turn to send.
    final var isQueued = false
    /// Payload so far.
    final var sentBytes = 0
    final var receivedBytes = 0

    init(_ state: ChannelState, number: ChannelNumber, link: Link) {
        self.state = state
        self.number = number
        self.link = link
    }

    // MARK: What the link tells

    /// The link knows the channel that the relay offers: accept or reject it, now or later.
    func begin() {}
    /// The relay has accepted.
    func opened() {}
    /// A piece of a message has come. It is lent until `deliveryEnds`, which follows in the same turn.
    func deliver(_ piece: UnsafeRawBufferPointer, isText: Bool, endsMessage: Bool) {}
    func deliveryEnds() {}
    /// The other end sends nothing more.
    func endReceived() {}
    /// The channel is over, by a close or rejection where there is one; else because both ends have sent `end`.
    func over(_ close: ChannelClose?) {}
    /// Its turn: put at most `limit` bytes of payload into the link. Returns whether there is more to send now.
    func takeTurn(limit: Int) -> Bool { false }

    // MARK: What subclasses do

    /// Asks for a turn to send.
    final func enqueue() {
        guard !isQueued, state.maySend else { return }
        link?.enqueue(self)
    }

    /// Bytes that came are done with: grants them anew when it is time.
    final func consume(_ count: Int) {
        let grant = state.consume(count)
        if grant > 0 { link?.send(.credit, number, word: UInt32(grant)) }
    }

    /// No more data from here.
    final func end() {
        guard state.end() else { return }
        link?.send(.end, number)
        if state.phase == .over { leave() }
    }

    /// Ends both directions.
    final func close(_ close: ChannelClose) {
        guard state.close() else { return }
        link?.send(.close, number, bytes: close.payload)
        leave()
    }

    /// Serves the channel that the relay offered.
    final func accept() {
        guard let window = state.accept() else { return }
        link?.send(.accept, number, word: UInt32(window))
    }

    final func reject(_ close: ChannelClose) {
        guard state.reject() else { return }
        link?.send(.reject, number, bytes: close.payload)
        leave()
    }

    private func leave() {
        link?.remove(self)
        link = nil
    }
}
