import Relay

/// A channel whose end is a program: messages that come wait in `messages` for its task.
final class ProgramEnd: ChannelEnd {
    /// A message, and how much of it is to be granted anew when it is taken.
    struct Arrived: Sendable {
        let message: Relay.Message
        let bytes: Int
    }

    let messages = Arrivals<Arrived>()
    /// Called once, when it is known whether the channel opens.
    private var whenOpen: ((Result<ProgramEnd, ChannelClose>) -> Void)?
    private let maximumMessageBytes: Int

    /// The message that is coming in, and how much of it has been granted anew already.
    private var partial: [UInt8] = []
    private var partialConsumed = 0

    private struct Outgoing {
        let bytes: [UInt8]
        let isText: Bool
        var sent = 0
        let done: CheckedContinuation<Void, any Error>
    }
    private var outgoing = Queue<Outgoing>()
    /// The first of them, a part of which may have been sent.
    private var sending: Outgoing?
    private var endsBehind = false

    /// Bytes that the other end may send before the program has taken them.
    static let window = 256 << 10

    init(
        _ state: ChannelState, number: ChannelNumber, link: Link, maximumMessageBytes: Int,
        whenOpen: ((Result<ProgramEnd, ChannelClose>) -> Void)? = nil
    ) {
        self.maximumMessageBytes = maximumMessageBytes
        self.whenOpen = whenOpen
        super.init(state, number: number, link: link)
    }

    // MARK: What the link tells

    override func opened() { answer(.success(self)) }

    private func answer(_ result: Result<ProgramEnd, ChannelClose>) {
        whenOpen?(result)
        whenOpen = nil
    }

    override func deliver(_ piece: UnsafeRawBufferPointer, isText: Bool, endsMessage: Bool) {
        guard partial.count + piece.count <= maximumMessageBytes else {
            let close = ChannelClose(4006, "a message is larger than \(maximumMessageBytes) bytes")
            return closeBoth(close)
        }
        partial.append(contentsOf: piece)
        if endsMessage {
            let message: Relay.Message = isText ? .text(String(decoding: partial, as: UTF8.self)) : .binary(partial)
            messages.received(Arrived(message: message, bytes: partial.count - partialConsumed))
            partial = []
            partialConsumed = 0
        } else if state.isExhausted {
            // Only with more credit can the message end; `maximumMessageBytes` bounds what this adds to the window.
            let bytes = partial.count - partialConsumed
            partialConsumed = partial.count
            consume(bytes)
        }
    }

    override func endReceived() { messages.finished(nil) }

    override func over(_ close: ChannelClose?) {
        answer(.failure(close ?? ChannelClose(1000)))
        messages.finished(close.flatMap { $0.code == 1000 ? nil : $0 })
        let reason = close ?? ChannelClose(1000)
        sending?.done.resume(throwing: reason)
        sending = nil
        while let next = outgoing.popFirst() { next.done.resume(throwing: reason) }
    }

    // MARK: What the program does

    /// Sends a message; `done` is resumed when all of it is on its way, or cannot be sent any more.
    func send(_ bytes: [UInt8], isText: Bool, _ done: CheckedContinuation<Void, any Error>) {
        guard state.maySend, !endsBehind else {
            return done.resume(throwing: ChannelClose(1000, "the channel is over"))
        }
        let item = Outgoing(bytes: bytes, isText: isText, done: done)
        if sending == nil { sending = item } else { outgoing.append(item) }
        enqueue()
    }

    /// Serves a channel that was offered; false where it is over by now.
    func serve() -> Bool {
        guard state.phase == .offered else { return false }
        accept()
        return true
    }

    /// Ends both directions, whatever is still to be sent.
    func closeBoth(_ close: ChannelClose) {
        self.close(close)
        over(close)
    }

    /// Sends `end` behind what is being sent.
    func endSending() {
        endsBehind = true
        if sending == nil { end() }
    }

    override func takeTurn(limit: Int) -> Bool {
        var room = limit
        while var message = sending, let link {
            let count = min(message.bytes.count - message.sent, room, state.sendable, Link.frameBytes)
            guard count > 0 || message.bytes.isEmpty else { return state.sendable > 0 }
            let rest = message.sent + count < message.bytes.count
            message.bytes.withUnsafeBytes { bytes in
                link.send(
                    .data(isText: message.isText, more: rest), number,
                    UnsafeRawBufferPointer(rebasing: bytes[message.sent..<message.sent + count]))
            }
            state.sent(count)
            sentBytes += count
            room -= count
            message.sent += count
            if rest {
                sending = message
            } else {
                sending = outgoing.popFirst()
                message.done.resume()
            }
        }
        if sending == nil, endsBehind { end() }
        return sending != nil
    }
}
