@testable import Relay

/// A seeded source of numbers (SplitMix64), so that a test that failed once can fail again.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// One frame as it goes over the wire, valid or not.
struct WireFrame {
    var isFinal = true
    var opcode: UInt8
    var reserved: UInt8 = 0
    var key: [UInt8]? = [0x37, 0xFA, 0x21, 0x3D]
    var payload: [UInt8]

    /// Written by hand here, not with `FrameEncoder`, so that encoder and decoder cannot share a mistake.
    var bytes: [UInt8] {
        var bytes = [(isFinal ? 0x80 : 0) | reserved << 4 | opcode]
        let mask: UInt8 = key == nil ? 0 : 0x80
        switch payload.count {
        case ...125: bytes.append(mask | UInt8(payload.count))
        case ...65535: bytes += [mask | 126, UInt8(payload.count >> 8), UInt8(payload.count & 0xFF)]
        default:
            bytes.append(mask | 127)
            bytes += (0..<8).map { UInt8(truncatingIfNeeded: payload.count >> (56 - 8 * $0)) }
        }
        guard let key else { return bytes + payload }
        return bytes + key + payload.enumerated().map { $1 ^ key[$0 % 4] }
    }

    static func text(_ text: String, isFinal: Bool = true) -> WireFrame {
        WireFrame(isFinal: isFinal, opcode: 1, payload: Array(text.utf8))
    }
    static func binary(_ payload: [UInt8], isFinal: Bool = true) -> WireFrame {
        WireFrame(isFinal: isFinal, opcode: 2, payload: payload)
    }
    static func more(_ payload: [UInt8], isFinal: Bool = false) -> WireFrame {
        WireFrame(isFinal: isFinal, opcode: 0, payload: payload)
    }
    static func close(_ payload: [UInt8]) -> WireFrame { WireFrame(opcode: 8, payload: payload) }
    static func close(_ code: Int, _ reason: [UInt8] = []) -> WireFrame {
        close([UInt8(code >> 8), UInt8(code & 0xFF)] + reason)
    }
    static func ping(_ payload: [UInt8]) -> WireFrame { WireFrame(opcode: 9, payload: payload) }
    static func pong(_ payload: [UInt8]) -> WireFrame { WireFrame(opcode: 10, payload: payload) }
}

/// What a `WebSocketReader` said about a stream, whole messages put together.
enum Told: Equatable {
    case text([UInt8])
    case binary([UInt8])
    case ping([UInt8])
    case pong([UInt8])
    case close(UInt16?, [UInt8])
    case violation(UInt16)

    static func text(_ text: String) -> Told { .text(Array(text.utf8)) }
}

/// How a stream is cut into buffers.
enum Cut {
    case whole
    case everyByte
    case at(Int)
    case sizes([Int])

    func pieces(of bytes: [UInt8]) -> [[UInt8]] {
        switch self {
        case .whole: return [bytes]
        case .everyByte: return bytes.map { [$0] }
        case .at(let index): return [Array(bytes[..<index]), Array(bytes[index...])]
        case .sizes(let sizes):
            var rest = bytes[...]
            var pieces: [[UInt8]] = []
            for size in sizes where !rest.isEmpty {
                pieces.append(Array(rest.prefix(size)))
                rest = rest.dropFirst(size)
            }
            return pieces + [Array(rest)]
        }
    }
}

/// Feeds `bytes` to a reader and writes down what it says. Stops nowhere: what follows an end must be silent.
func read(
    _ bytes: [UInt8], _ cut: Cut = .whole, role: FrameDecoder.Role = .server, limit: Int = 0
) -> [Told] {
    var reader = WebSocketReader(role: role, maximumMessageBytes: limit)
    var told: [Told] = []
    var message: [UInt8] = []
    for piece in cut.pieces(of: bytes) {
        var piece = piece
        piece.withUnsafeMutableBytes { buffer in
            var offset = 0
            while let event = step(&reader, buffer, &offset, &message) { told.append(contentsOf: event) }
            precondition(offset == buffer.count, "needsInput before everything was consumed")
        }
    }
    return told
}

/// One event: nil for `needsInput`, empty inside a message.
private func step(
    _ reader: inout WebSocketReader, _ buffer: UnsafeMutableRawBufferPointer, _ offset: inout Int,
    _ message: inout [UInt8]
) -> [Told]? {
    switch reader.next(buffer, &offset) {
    case .needsInput: return nil
    case .data(let isText, let range, let isFirst, let isLast):
        precondition(isFirst == message.isEmpty || range.isEmpty || isLast, "a first piece inside a message")
        if isFirst { message = [] }
        message += buffer[range]
        guard isLast else { return [] }
        defer { message = [] }
        return [isText ? .text(message) : .binary(message)]
    case .ping(let payload): return [.ping(Array(payload))]
    case .pong(let payload): return [.pong(Array(payload))]
    case .close(let code, let reason): return [.close(code?.rawValue, Array(reason))]
    case .violation(let violation): return [.violation(violation.code.rawValue)]
    }
}
