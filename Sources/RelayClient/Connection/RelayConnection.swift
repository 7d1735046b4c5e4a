import Relay

/// A blocking WebSocket client (RFC 6455) for the command line: text messages out and in, pings answered, requests
/// matched to their replies by `id`. Not for several threads.
package final class RelayConnection {
    package enum Message: Equatable {
        case text(String)
        case binary([UInt8])
    }

    package enum Received {
        case message(Message)
        case timedOut
        /// The relay closed the connection, or it broke; the sentence says which.
        case closed(ClientFailure)
    }

    package let url: RelayURL
    private let stream: SocketStream
    private var reader = WebSocketReader(role: .client, maximumMessageBytes: 64 << 20)
    private var buffer: [UInt8]
    /// Bytes of `buffer` that were received and not yet read: `unread.lowerBound` is the reader's offset.
    private var unread = 0..<0
    private var partial: [UInt8] = []
    /// Messages that came while a reply was awaited.
    private var waiting: [Message] = []
    private var lastID: Int64 = 0
    private var end: ClientFailure?

    /// How long one write may take.
    private static let writeTimeout = Duration.seconds(30)

    package init(to url: RelayURL, trust: Trust = Trust(), timeout: Duration = .seconds(10)) throws(ClientFailure) {
        let deadline = Deadline.after(timeout)
        self.url = url
        stream = try SocketStream.open(url, trust: trust, deadline: deadline)
        buffer = [UInt8](repeating: 0, count: 64 << 10)
        let rest = try Handshake.perform(over: stream, url: url, deadline: deadline)
        if rest.count > buffer.count { buffer = rest } else { buffer.replaceSubrange(0..<rest.count, with: rest) }
        unread = 0..<rest.count
    }

    deinit { stream.sayGoodbye() }

    /// What poll(2) can wait on, together with `hasBufferedInput`.
    package var fileDescriptor: Int32 { stream.fileDescriptor }
    /// Whether `receive` may find something without the socket becoming readable.
    package var hasBufferedInput: Bool { !unread.isEmpty || !waiting.isEmpty || stream.hasBufferedInput || end != nil }

    // MARK: Requests

    /// Sends a request and waits for its reply. Other messages that come meanwhile are kept for `receive`.
    package func request(
        _ instruction: String, _ parameters: JSONValue? = nil, credential: String? = nil,
        timeout: Duration = .seconds(35)
    ) throws(ClientFailure) -> JSONValue {
        lastID += 1
        let id = lastID
        try send(Self.requestText(instruction, parameters, credential: credential, id: id))
        let deadline = Deadline.after(timeout)
        while true {
            switch receiveNew(deadline) {
            case .timedOut:
                throw .refused(
                    "The relay at \(url) has not answered \"\(instruction)\" within \(timeout.components.seconds) s.")
            case .closed(let failure):
                throw failure
            case .message(.binary(let bytes)):
                waiting.append(.binary(bytes))
            case .message(.text(let text)):
                guard let reply = JSONValue(json: text), reply["id"]?.integer == id else {
                    waiting.append(.text(text))
                    continue
                }
                if let error = reply["error"] { throw Self.failure(error) }
                return reply["result"] ?? .null
            }
        }
    }

    /// A request as it goes over the wire (DESIGN §6).
    package static func requestText(
        _ instruction: String, _ parameters: JSONValue?, credential: String? = nil, id: Int64? = nil
    ) -> String {
        var members: [String: JSONValue] = ["instruction": .string(instruction)]
        if let parameters { members["parameters"] = parameters }
        if let credential { members["credential"] = .string(credential) }
        if let id { members["id"] = .integer(id) }
        return JSONValue.object(members).json()
    }

    static func failure(_ error: JSONValue) -> ClientFailure {
        let code = error["code"]?.string ?? "internal"
        let message = error["message"]?.string ?? "The relay gave no reason."
        let advice = ErrorCode(rawValue: code) == nil ? "" : " (`relayd explain \(code)` says more)"
        return .refused(printable("\(code): \(message)") + advice)
    }

    // MARK: Messages

    package func send(_ text: String) throws(ClientFailure) { try send(.text, Array(text.utf8)) }

    /// The next message, those kept by `request` first.
    package func receive(within timeout: Duration) -> Received { receive(until: .after(timeout)) }

    package func receive(until deadline: Deadline) -> Received {
        waiting.isEmpty ? receiveNew(deadline) : .message(waiting.removeFirst())
    }

    /// The messages that came while `request` waited.
    package func takeWaiting() -> [Message] {
        defer { waiting = [] }
        return waiting
    }

    /// Says goodbye and waits a moment for the answer, so that the relay sees a clean end.
    package func close() {
        guard end == nil else { return }
        do { try send(.close, FrameEncoder.closePayload(.normal)) } catch { return }
        let deadline = Deadline.after(.seconds(2))
        while true {
            switch receiveNew(deadline) {
            case .message: continue
            case .timedOut, .closed: return
            }
        }
    }

    private func receiveNew(_ deadline: Deadline) -> Received {
        if let end { return .closed(end) }
        while true {
            while !unread.isEmpty {
                if let received = readFrame() { return received }
            }
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0, deadline: deadline) }) {
            case .bytes(let count): unread = 0..<count
            case .timedOut: return .timedOut
            case .endOfStream: return finish("the connection ended without a close frame")
            case .failed(let reason): return finish(reason)
            }
        }
    }

    /// What can be done with the buffer without touching `self`.
    private enum Step {
        case again
        case message(Message)
        case pong([UInt8])
        case close(CloseCode?, reason: String)
        case violation(ProtocolViolation)
    }

    private func readFrame() -> Received? {
        switch nextStep() {
        case .again:
            return nil
        case .message(let message):
            return .message(message)
        case .pong(let payload):
            do { try send(.pong, payload) } catch { return finish("\(error)") }
            return nil
        case .close(let code, let reason):
            try? send(.close, FrameEncoder.closePayload(code ?? .noStatus))
            return finish(.closed(url, with: code, saying: reason))
        case .violation(let violation):
            try? send(.close, FrameEncoder.closePayload(violation.code, reason: "\(violation.reason)"))
            return finish("it broke the protocol: \(violation.reason)")
        }
    }

    private func nextStep() -> Step {
        var offset = unread.lowerBound
        let upper = unread.upperBound
        defer { unread = min(offset, upper)..<upper }
        return buffer.withUnsafeMutableBytes { all in
            let bytes = UnsafeMutableRawBufferPointer(rebasing: all[..<upper])
            switch reader.next(bytes, &offset) {
            case .needsInput:
                offset = upper
                return .again
            case .data(let isText, let range, let isFirst, let isLast):
                if isFirst { partial.removeAll(keepingCapacity: true) }
                partial.append(contentsOf: bytes[range])
                guard isLast else { return .again }
                return .message(isText ? .text(String(decoding: partial, as: UTF8.self)) : .binary(partial))
            case .ping(let payload): return .pong(Array(payload))
            case .pong: return .again
            case .close(let code, let reason): return .close(code, reason: String(decoding: reason, as: UTF8.self))
            case .violation(let violation): return .violation(violation)
            }
        }
    }

    private func finish(_ reason: String) -> Received { finish(.broken(url, reason)) }

    private func finish(_ failure: ClientFailure) -> Received {
        end = failure
        return .closed(failure)
    }

    // MARK: Frames out

    private func send(_ opcode: Opcode, _ payload: [UInt8]) throws(ClientFailure) {
        if let end { throw end }
        var key: UInt32 = 0
        withUnsafeMutableBytes(of: &key) { SecureRandom.fill($0) }
        var frame = [UInt8](repeating: 0, count: FrameHeader.maximumLength + payload.count)
        let length = frame.withUnsafeMutableBytes { room in
            guard let base = room.baseAddress else { return 0 }
            let head = FrameEncoder.writeHeader(
                isFinal: true, opcode: opcode, payloadLength: payload.count, maskingKey: key, into: base)
            payload.withUnsafeBytes {
                Masking.copy(
                    $0, to: UnsafeMutableRawBufferPointer(rebasing: room[head..<head + payload.count]), key: key)
            }
            return head + payload.count
        }
        let failure = frame.withUnsafeBytes {
            stream.write(UnsafeRawBufferPointer(rebasing: $0[..<length]), deadline: .after(Self.writeTimeout))
        }
        if let failure {
            _ = finish(failure)
            throw end ?? .unreachable(failure)
        }
    }
}
