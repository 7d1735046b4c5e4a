import Relay

// Frames in.
extension Link {
    /// Receives in one turn, so that a fast relay does not keep the channels from sending.
    private static let receivesPerTurn = 4
    private static let maximumTextBytes = 64 << 20

    func receive() {
        for _ in 0..<Self.receivesPerTurn where mayRead && phase != .gone {
            switch System.receive(socket.fileDescriptor, into: loop.receiveBuffer) {
            case .bytes(let count):
                lastReceived = loop.now
                hasAsked = false
                // A read that was not filled has emptied the socket (epoll(7)), unless the end was announced.
                if count < loop.receiveBuffer.count, !hasEnd { mayRead = false }
                let bytes = UnsafeMutableRawBufferPointer(rebasing: loop.receiveBuffer[..<count])
                if let session { decrypt(bytes, session) } else { take(bytes) }
            case .wouldBlock: mayRead = false
            case .endOfStream: lose("the connection ended without a close frame")
            case .failed(let code): lose(System.describe(errno: code))
            }
        }
    }

    private func decrypt(_ bytes: UnsafeMutableRawBufferPointer, _ session: TLSSession) {
        session.receive(UnsafeRawBufferPointer(bytes))
        while phase != .gone {
            switch session.read(into: loop.plaintextBuffer, output: &records, pool: loop.pool) {
            case .bytes(let count): take(UnsafeMutableRawBufferPointer(rebasing: loop.plaintextBuffer[..<count]))
            case .needsInput: return
            case .closed: return lose("the connection ended without a close frame")
            case .failed(let failure): return lose("\(failure)")
            }
        }
    }

    /// Reads the WebSocket frames that came.
    func take(_ bytes: UnsafeMutableRawBufferPointer) {
        var offset = 0
        while offset < bytes.count, phase != .gone {
            switch reader.next(bytes, &offset) {
            case .needsInput: offset = bytes.count
            case .data(let isText, let range, let isFirst, let isLast):
                let piece = UnsafeRawBufferPointer(rebasing: bytes[range])
                if isText { takeText(piece, isFirst, isLast) } else { takeFrame(piece, isFirst, isLast) }
            case .ping(let payload): sendMessage(.pong, UnsafeRawBufferPointer(start: nil, count: 0), payload)
            case .pong: break
            case .close(let code, let reason): closed(code, String(decoding: reason, as: UTF8.self))
            case .violation(let violation): violated(violation.reason, code: violation.code)
            }
        }
        current?.deliveryEnds()
        current = nil
    }

    private func takeText(_ piece: UnsafeRawBufferPointer, _ isFirst: Bool, _ isLast: Bool) {
        if isFirst { text.removeAll() }
        guard text.count + piece.count <= Self.maximumTextBytes else {
            return violated("a message is too long", code: .messageTooBig)
        }
        text.append(contentsOf: piece)
        if isLast { owner.received(text: String(decoding: text, as: UTF8.self)) }
    }

    private func takeFrame(_ piece: UnsafeRawBufferPointer, _ isFirst: Bool, _ isLast: Bool) {
        switch frames.read(piece, isFirst: isFirst, isLast: isLast) {
        case .more: break
        case .data(let number, let isText, let range, let endsMessage):
            if current?.number != number {
                current?.deliveryEnds()
                current = channels[number]
            }
            guard let end = current else { return checkNumber(number) }
            switch end.state.dataReceived(range.count, isText: isText, endsMessage: endsMessage) {
            case .proceed:
                end.receivedBytes += range.count
                end.deliver(UnsafeRawBufferPointer(rebasing: piece[range]), isText: isText, endsMessage: endsMessage)
            case .violation(let close): violate(end, close)
            case .ignore, .over: break
            }
        case .frame(let number, let frame):
            // What came before it goes first.
            current?.deliveryEnds()
            current = nil
            take(frame, number)
        case .drain(let json): owner.draining(self, json)
        case .violation(let reason): violated(reason)
        }
    }

    private func take(_ frame: ChannelFrame, _ number: ChannelNumber) {
        switch frame {
        case .open(let json):
            guard channels[number] == nil, numbers.admit(number) else { return violated(Self.outOfTurn) }
            offered(number, json)
        case .accept(let credit):
            guard number.rawValue % 2 == 1 || channels[number] != nil else { return openedByScript(number) }
            tell(number, { $0.acceptReceived(credit: credit) }) { $0.opened() }
        case .reject(let code, let reason):
            // With a number of its own the relay says that what a script asked for has failed.
            if channels[number] == nil, numbers.admit(number) { return }
            tell(number, { $0.rejectReceived() }, ChannelClose(code, reason))
        case .credit(let count): tell(number, { $0.creditReceived(count) }) { $0.enqueue() }
        case .end: tell(number, { $0.endReceived() }) { $0.endReceived() }
        case .close(let code, let reason): tell(number, { $0.closeReceived() }, ChannelClose(code.rawValue, reason))
        // The reader lets none through: only a peer asks.
        case .ping: break
        }
    }

    private static var outOfTurn: StaticString { "a channel number is out of turn" }

    /// Hands an event to a channel and does what follows from it.
    private func tell(
        _ number: ChannelNumber, _ event: (inout ChannelState) -> ChannelState.Received, _ close: ChannelClose? = nil,
        proceed: (ChannelEnd) -> Void = { _ in }
    ) {
        guard let end = channels[number] else { return checkNumber(number) }
        switch event(&end.state) {
        case .proceed: proceed(end)
        case .over:
            remove(end)
            end.link = nil
            end.over(close)
        case .violation(let close): violate(end, close)
        case .ignore: break
        }
    }

    private func violate(_ end: ChannelEnd, _ close: ChannelClose) {
        end.close(close)
        end.over(close)
    }

    /// A frame came for a channel that is not there: it is over, or has never been.
    private func checkNumber(_ number: ChannelNumber) {
        if !numbers.wasUsed(number) { violated("a frame for a channel that was never opened") }
    }
}

// Channels that come from the relay.
extension Link {
    private func offered(_ number: ChannelNumber, _ json: [UInt8]) {
        switch owner.offered(json, number, on: self) {
        case .take(let end):
            channels[number] = end
            end.begin()
        case .reject(let close): send(.reject, number, bytes: close.payload)
        case nil: violated("an open has a malformed payload")
        }
    }

    /// A script wants to connect us to a server: nobody here has asked for that.
    private func openedByScript(_ number: ChannelNumber) {
        _ = numbers.admit(number)
        send(.close, number, bytes: ChannelClose(1001, "not wanted").payload)
    }
}
