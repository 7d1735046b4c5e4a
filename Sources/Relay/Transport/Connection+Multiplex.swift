internal import Glibc

// A multiplexed connection (subprotocol relay.v1): channel frames in and out. The rules are in docs/relay.v1.md.
extension Connection {
    /// The connection carries channels from now on.
    func beginMultiplexing() {
        channels = Multiplexer(isDialled: isDialled, isLink: subprotocol == .link)
        // Binary messages are frames of channels: they stream, so only texts have a limit.
        reader.limitsBinary = false
        // One receive brings the messages of many channels: the more it does, the more of them leave in one send each.
        handle.receiveBytes = UInt32(EpollBackend.mostReceiveBytes)
        System.setUnsentLimit(handle.fileDescriptor, bytes: Int32(Multiplexer.leastBurst))
        loop.channelConnections[id] = self
    }

    // MARK: Frames in

    func readChannels(_ bytes: UnsafeMutableRawBufferPointer, _ channels: Multiplexer) {
        var offset = 0
        var key: UInt32 = 0
        let mayMove = loop.limits.messagesPerSecond == 0 || channels.isLink
        while lifecycle.readsFrames {
            if mayMove, reader.isBetweenMessages, WebSocketReader.beginsSmallBinary(bytes, offset),
                let number = reader.channelNumber(bytes, offset)
            {
                channels.end(channels.translated(number))?.moveSmallMessages(bytes, &offset)
            }
            let event = reader.nextMasked(bytes, &offset, key: &key, checksText: true)
            switch event {
            case .needsInput:
                return
            case .data(let isText, let range, let isFirst, let isLast):
                let piece = UnsafeMutableRawBufferPointer(rebasing: bytes[range])
                if isText {
                    data(UnsafeRawBufferPointer(piece), isText: true, isFirst: isFirst, isLast: isLast)
                } else if lifecycle.isOpen {
                    channelFrame(piece, key: key, isLast: isLast, channels)
                }
            case .ping, .pong, .close, .violation:
                control(event)
            }
            if leavesUnread(bytes, offset) { return }
        }
    }

    /// A piece of a binary message, masked with `key`.
    @inline(__always)
    private func channelFrame(
        _ piece: UnsafeMutableRawBufferPointer, key: UInt32, isLast: Bool, _ channels: Multiplexer
    ) {
        var payload = piece
        var key = key
        if channels.reading == .head {
            guard channels.takeHead(&payload, key: &key) else {
                if isLast { violated(.protocolError, "a channel frame is shorter than its head") }
                return
            }
            // What comes through a link has been counted where it came from.
            guard channels.isLink || rate.allows(at: loop.now, limit: loop.limits.messagesPerSecond) else {
                return exceededRate()
            }
            beginFrame(channels)
            guard lifecycle.isOpen else { return }
        }
        switch channels.reading {
        case .data:
            if let source = channels.source {
                let more = channels.type.hasMore || !isLast
                let isText = channels.type.isText
                if isText {
                    Masking.apply(key, to: payload)
                    key = 0
                }
                if !payload.isEmpty || !more {
                    source._withUnsafeGuaranteedRef {
                        $0.send(UnsafeRawBufferPointer(payload), key: key, isText: isText, more: more)
                    }
                }
            }
        case .control:
            Masking.apply(key, to: payload)
            gather(UnsafeRawBufferPointer(payload), isLast: isLast, channels)
        case .ignored, .head:
            break
        }
        if isLast { channels.endFrame() }
    }

    /// The head of a frame is complete: whose is it?
    @inline(__always)
    private func beginFrame(_ channels: Multiplexer) {
        guard channels.type.isData else { return channels.reading = .control }
        channels.reading = .data
        if let end = channels.end(channels.number), end.phase == .open, !end.hasEnded,
            end.openMessage == nil || end.openMessage == channels.type.isText
        {
            channels.source = Unmanaged.passUnretained(end)
        } else {
            channels.source = nil
            misplacedData(channels)
        }
    }

    private func misplacedData(_ channels: Multiplexer) {
        let number = channels.number
        guard let end = channels.end(number) else {
            // What was under way when the channel was closed is nobody's fault.
            if number == .connection { return violated(.protocolError, "a data frame for channel 0") }
            if !channels.isPast(number) { refuse(channel: number, .protocolError, "there is no such channel") }
            return
        }
        switch end.phase {
        case .opening where end.isServer:
            end.fail(.protocolError, "the server sent data before it accepted")
        case .opening:
            end.fail(.limit, "the credit of the channel was exceeded")
        default:
            end.fail(.protocolError, end.hasEnded ? "data after end" : "the type of a message has changed within it")
        }
    }

    private func gather(_ payload: UnsafeRawBufferPointer, isLast: Bool, _ channels: Multiplexer) {
        let isDrain = channels.isLink && channels.type == .drain
        guard let maximum = isDrain ? Self.maximumDrainBytes : ChannelFrame.maximumPayload(of: channels.type) else {
            return violated(.protocolError, "a channel frame has an unknown type")
        }
        guard assembly.count + payload.count <= maximum else {
            return violated(.protocolError, "a channel frame is too long for its type")
        }
        if isDrain {
            // When it wants to be left is the other relay's to say: it will close. No more is opened there.
            if isLast { ask(.linkDrains(id)) }
            return
        }
        let frame: ChannelFrame?
        if isLast, assembly.count == 0 {
            frame = ChannelFrame.parse(channels.type, payload)
        } else {
            assembly.append(payload)
            guard isLast else { return }
            frame = ChannelFrame.parse(channels.type, assembly.bytes)
            assembly.removeAll()
        }
        guard let frame else { return violated(.protocolError, "the payload of a channel frame is malformed") }
        deliveredMessage = true  // An open can run a script.
        channelFrame(frame, channels.number, channels)
    }

    private static let maximumDrainBytes = 1024

    private func channelFrame(_ frame: ChannelFrame, _ number: ChannelNumber, _ channels: Multiplexer) {
        switch frame {
        case .open(let json):
            return openRequested(number, json, channels)
        case .ping(let payload):
            guard number == .connection else { return violated(.protocolError, "a ping on a channel") }
            if queuedControlBytes < loop.limits.outboundHighBytes { queueChannelFrame(.pong, .connection, payload) }
            return
        default:
            break
        }
        guard let end = channels.end(number) else {
            guard number != .connection else { return violated(.protocolError, "a frame for channel 0") }
            // Closes of both sides can cross; so can a credit and a close.
            if !channels.isPast(number) { refuse(channel: number, .protocolError, "there is no such channel") }
            return
        }
        switch frame {
        case .accept(let credit): answered(end, credit: credit)
        case .reject(let code, let reason): rejected(end, code, reason)
        case .credit(let bytes):
            if !end.grant(bytes) { end.fail(.protocolError, "the channel was granted too much") }
        case .end:
            guard end.phase == .open, !end.hasEnded, end.openMessage == nil else {
                return end.fail(.protocolError, "an end that is out of place")
            }
            end.end()
        case .close(let code, let reason): end.close(code, reason)
        case .open, .ping: break
        }
    }

    // MARK: Opening

    private func openRequested(_ number: ChannelNumber, _ json: [UInt8], _ channels: Multiplexer) {
        guard channels.takePeerNumber(number) else { return violated(.protocolError, "a channel number out of turn") }
        switch json.withUnsafeBytes({ ChannelOpen.parse($0) }) {
        case .failure(let malformed):
            violated(.protocolError, malformed.reason)
        case .success(let open):
            guard channels.count < loop.limits.channelsPerConnection else {
                return reject(
                    channel: number, ChannelReject.limit, "too many channels (channelsPerConnection)")
            }
            let end = ChannelEnd(self, number, isServer: false)
            channels.insert(end)
            let credit = open.credit ?? ChannelOpen.defaultCredit
            _ = end.window.grant(credit)
            var request = ChannelRequest(
                client: id, number: number, server: open.server, port: open.port,
                credit: end.window.passOn(queued: 0, limit: end.limit))
            if channels.isLink {
                guard let via = RelayID.list(open.via ?? "") else {
                    return violated(.protocolError, "an open has passed relays that cannot be")
                }
                request.origin = ChannelRequest.Origin(
                    remoteAddress: open.remoteAddress ?? address.host, metadata: open.metadata, via: via)
            }
            self.request(request)
        }
    }

    /// The app lets a client in to this connection, which is a server: it is asked.
    func open(_ opening: ChannelOpening, _ channels: Multiplexer) {
        guard lifecycle.isOpen else {
            return loop.tell(opening.client, .reject(code: ChannelReject.badGateway, reason: "the server is leaving"))
        }
        // Whoever opens and closes in turns has no channels, and the server is to hear of all of them.
        guard queuedBytes <= loop.limits.outboundHighBytes else {
            let reason = "the server does not take what it is sent"
            return loop.tell(opening.client, .reject(code: ChannelReject.limit, reason: reason))
        }
        guard channels.count < loop.limits.channelsPerConnection else {
            let reason = "the server has as many channels as it may (channelsPerConnection)"
            return loop.tell(opening.client, .reject(code: ChannelReject.limit, reason: reason))
        }
        guard let number = channels.takeOwnNumber() else {
            // A billion opens are behind it: whoever connects anew has all numbers again.
            close(.serviceRestart, reason: "all channel numbers have been used")
            return loop.tell(opening.client, .reject(code: ChannelReject.badGateway, reason: "the server is leaving"))
        }
        let end = ChannelEnd(self, number, isServer: true)
        let isCallable = opening.client.isCallable(on: loop.index)
        let client = isCallable ? loop.channelEnd(opening.client) : nil
        if isCallable {
            // Gone, or closed by its client, while the app decided.
            guard let client, client.phase == .opening else { return }
            client.meet(end, nil)
        }
        channels.insert(end)
        end.promise(opening.credit)
        end.meet(client, opening.client)
        end.record = opening.record
        end.ticketSecret = SecureRandom.bytes(ChannelTicket.secretBytes)
        let ticket = ChannelTicket(connection: id, number: number, secret: end.ticketSecret)
        let json = ChannelOpen.encode(
            server: opening.record.server, port: opening.record.port, remoteAddress: opening.record.remoteAddress,
            metadata: opening.metadata, credit: opening.credit, ticket: ticket.text,
            via: channels.isLink ? opening.via : [])
        queueChannelFrame(.open, number, json)
        if client == nil { loop.tell(opening.client, .asked(at: end.address)) }
        channels.pruneOpenings()
        channels.wait(for: number, until: loop.now + Self.openMilliseconds)
        guard deadlines.opening == .max else { return }
        deadlines.opening = loop.now + Self.openMilliseconds
        updateTimer()
    }

    /// A server has so long to answer an open, be it by its dedicated connection.
    private static let openMilliseconds: UInt64 = 30_000

    /// Opens are overdue.
    func openingsDue() {
        guard let channels else { return deadlines.opening = .max }
        for end in channels.takeOverdue(at: loop.now) {
            let reason = "the server has not answered in time"
            end.tell(.reject(code: ChannelReject.timeout, reason: reason))
            refuse(channel: end.number, CloseCode(ChannelReject.timeout), reason)
            end.detach()
        }
        deadlines.opening = channels.openings.first?.deadline ?? .max
    }

    private func answered(_ end: ChannelEnd, credit: Int) {
        guard end.isServer, end.phase == .opening, let record = end.record else {
            return end.fail(.protocolError, "an accept of a channel that is not being opened")
        }
        _ = end.window.grant(credit)
        let promised = end.window.passOn(queued: 0, limit: end.limit)
        end.open(to: end.peer, end.remote, credit: end.credit, record)
        end.tell(.accept(credit: promised, from: end.address, record))
    }

    private func rejected(_ end: ChannelEnd, _ code: UInt16, _ reason: String) {
        guard end.isServer, end.phase == .opening else {
            return end.fail(.protocolError, "a reject of a channel that is not being opened")
        }
        end.tell(.reject(code: code, reason: reason))
        end.detach()
    }

    // MARK: Frames out

    /// Queues a frame that carries no data and waits for none.
    func queueChannelFrame(_ type: ChannelFrameType, _ number: ChannelNumber, _ payload: [UInt8] = []) {
        guard lifecycle.isOpen else { return }
        ChannelFrame.encode(type, wireNumber(number), payload).withUnsafeBytes { queueFrame(.binary, $0) }
        // Who makes the relay answer and does not read the answers is read no further.
        if queuedControlBytes > loop.limits.outboundHighBytes { wait(for: self) }
    }

    /// A channel's number as it stands in frames.
    func wireNumber(_ number: ChannelNumber) -> ChannelNumber { channels?.translated(number.rawValue) ?? number }

    /// What waits in front of all channels.
    private var queuedControlBytes: Int { outbound.byteCount }

    func reject(channel number: ChannelNumber, _ code: UInt16, _ reason: String) {
        queueChannelFrame(.reject, number, ChannelFrame.payload(code: code, reason: reason))
    }

    private func refuse(channel number: ChannelNumber, _ code: CloseCode, _ reason: String) {
        queueChannelFrame(.close, number, ChannelFrame.payload(code: code.rawValue, reason: reason))
    }

    /// A piece of a message for this connection: at once where nothing is in its way, else in its channel's queue.
    @inline(__always)
    func queueData(
        _ end: ChannelEnd, _ payload: UnsafeRawBufferPointer, key: UInt32, isText: Bool, more: Bool
    ) {
        guard let channels, lifecycle.isOpen else { return }
        let length = payload.count &+ ChannelFrame.headLength
        guard !channels.hasBacklog, outbound.byteCount &+ length <= channels.burst else {
            return queueInTurn(end, payload, key: key, isText: isText, more: more, channels)
        }
        let type = ChannelFrameType.data(isText: isText, more: more)
        let head = FrameEncoder.headerLength(payloadLength: length, isMasked: isDialled) &+ ChannelFrame.headLength
        let room = outbound.reserve(head &+ payload.count, atLeast: head, from: loop.pool)
        let key = key ^ writeDataHead(type, end.number, payloadLength: length, into: room, channels)
        let first = min(payload.count, room.count &- head)
        Masking.copy(
            UnsafeRawBufferPointer(rebasing: payload[..<first]),
            to: UnsafeMutableRawBufferPointer(rebasing: room[head..<(head &+ first)]), key: key)
        outbound.commit(head &+ first)
        if first < payload.count {
            let rest = UnsafeRawBufferPointer(rebasing: payload[first...])
            outbound.append(rest, key: Masking.rotated(key, by: first), from: loop.pool)
        }
        setDirty()
    }

    /// Writes both heads, and returns the key that masks what follows them.
    @inline(__always)
    private func writeDataHead(
        _ type: ChannelFrameType, _ number: ChannelNumber, payloadLength: Int, into room: UnsafeMutableRawBufferPointer,
        _ channels: Multiplexer
    ) -> UInt32 {
        // SAFETY: `room` has been reserved for both heads.
        let base = room.baseAddress!
        let mask = takeMask()
        let length = FrameEncoder.writeHeader(
            isFinal: true, opcode: .binary, payloadLength: payloadLength, maskingKey: mask, into: base)
        ChannelFrame.writeHead(type, channels.translated(number.rawValue), into: base + length)
        guard let mask else { return 0 }
        Masking.apply(mask, to: UnsafeMutableRawBufferPointer(start: base + length, count: ChannelFrame.headLength))
        return Masking.rotated(mask, by: ChannelFrame.headLength)
    }

    /// Cuts what waits into frames that lie in one chunk each, so that chunks can take turns.
    private func queueInTurn(
        _ end: ChannelEnd, _ payload: UnsafeRawBufferPointer, key: UInt32, isText: Bool, more: Bool,
        _ channels: Multiplexer
    ) {
        let before = end.queue.byteCount
        // With two bytes of length: no chunk holds more than 64 KiB.
        let head = FrameEncoder.headerLength(payloadLength: 0xFFFF, isMasked: isDialled) + ChannelFrame.headLength
        var rest = payload
        var key = key
        repeat {
            let room = end.queue.reserve(
                head + rest.count, atLeast: head + min(rest.count, 1024), growth: .medium, from: loop.pool)
            let count = min(rest.count, room.count - head)
            let length = count + ChannelFrame.headLength
            let used = FrameEncoder.headerLength(payloadLength: length, isMasked: isDialled) + ChannelFrame.headLength
            let type = ChannelFrameType.data(isText: isText, more: more || count < rest.count)
            let mask = writeDataHead(type, end.number, payloadLength: length, into: room, channels)
            Masking.copy(
                UnsafeRawBufferPointer(rebasing: rest[..<count]),
                to: UnsafeMutableRawBufferPointer(rebasing: room[used..<(used + count)]), key: key ^ mask)
            end.queue.commit(used + count)
            key = Masking.rotated(key, by: count)
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        } while !rest.isEmpty
        channels.queued(end.queue.byteCount - before, of: end)
        setDirty()
    }

    /// A frame that must not overtake the data of its channel.
    func queueBehindData(_ end: ChannelEnd, _ frame: [UInt8]) {
        guard let channels, lifecycle.isOpen else { return }
        let before = end.queue.byteCount
        let head = FrameEncoder.headerLength(payloadLength: frame.count, isMasked: isDialled)
        let mask = takeMask()
        let room = end.queue.reserve(
            head + frame.count, atLeast: head + frame.count, growth: .medium, from: loop.pool)
        // SAFETY: the room is for the whole frame, which is shorter than a small chunk.
        _ = FrameEncoder.writeHeader(
            isFinal: true, opcode: .binary, payloadLength: frame.count, maskingKey: mask, into: room.baseAddress!)
        let rest = UnsafeMutableRawBufferPointer(rebasing: room[head..<(head + frame.count)])
        frame.withUnsafeBytes { Masking.copy($0, to: rest, key: mask ?? 0) }
        end.queue.commit(head + frame.count)
        channels.queued(end.queue.byteCount - before, of: end)
        setDirty()
    }
}
