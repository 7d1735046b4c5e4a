import Relay

// Frames out.
extension Link {
    func send(_ type: ChannelFrameType, _ channel: ChannelNumber) {
        send(type, channel, UnsafeRawBufferPointer(start: nil, count: 0))
    }

    func send(_ type: ChannelFrameType, _ channel: ChannelNumber, word: UInt32) {
        withUnsafeBytes(of: word.bigEndian) { send(type, channel, $0) }
    }

    func send(_ type: ChannelFrameType, _ channel: ChannelNumber, bytes: [UInt8]) {
        bytes.withUnsafeBytes { send(type, channel, $0) }
    }

    /// One frame of relay.v1.
    func send(_ type: ChannelFrameType, _ channel: ChannelNumber, _ payload: UnsafeRawBufferPointer) {
        withUnsafeTemporaryAllocation(byteCount: ChannelFrame.headLength, alignment: 1) { head in
            // SAFETY: the allocation has the head's length.
            ChannelFrame.writeHead(type, channel, into: head.baseAddress!)
            sendMessage(.binary, UnsafeRawBufferPointer(head), payload)
        }
    }

    func send(text: String) {
        var text = text
        text.withUTF8 { sendMessage(.text, UnsafeRawBufferPointer(start: nil, count: 0), UnsafeRawBufferPointer($0)) }
    }

    /// One WebSocket frame whose payload is `first` and then `rest`.
    func sendMessage(_ opcode: Opcode, _ first: UnsafeRawBufferPointer, _ rest: UnsafeRawBufferPointer) {
        guard phase == .open else { return }
        let key = loop.maskingKeys.take()
        let room = output.reserve(FrameHeader.maximumLength, atLeast: FrameHeader.maximumLength, from: loop.pool)
        // SAFETY: `reserve` gives at least the length of the longest head.
        output.commit(
            FrameEncoder.writeHeader(
                isFinal: true, opcode: opcode, payloadLength: first.count + rest.count, maskingKey: key,
                into: room.baseAddress!))
        append(first, key: key)
        append(rest, key: Masking.rotated(key, by: first.count))
    }

    private func append(_ bytes: UnsafeRawBufferPointer, key: UInt32) {
        var offset = 0
        while offset < bytes.count {
            let room = output.reserve(bytes.count - offset, from: loop.pool)
            let piece = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + room.count])
            Masking.copy(piece, to: room, key: key, phase: offset)
            output.commit(room.count)
            offset += room.count
        }
    }

    /// Payload of a frame whose WebSocket head has two bytes of length.
    static let frameBytes = 0xFFFF - ChannelFrame.headLength

    /// Reads up to `limit` bytes from a descriptor into data frames of `channel`. The detour over a buffer is worth it:
    /// reading straight into each frame took four calls for one, and each tells the sender that there is room.
    func sendFrames(_ channel: ChannelNumber, from descriptor: Int32, limit: Int) -> Descriptor.ReadResult {
        let buffer = UnsafeMutableRawBufferPointer(
            rebasing: loop.receiveBuffer[..<min(limit, loop.receiveBuffer.count)])
        let result = Descriptor.read(descriptor, into: buffer)
        guard case .bytes(let count, _) = result else { return result }
        var offset = 0
        while offset < count {
            let end = min(count, offset + Self.frameBytes)
            send(.data(isText: false, more: false), channel, UnsafeRawBufferPointer(rebasing: buffer[offset..<end]))
            offset = end
        }
        return result
    }
}
