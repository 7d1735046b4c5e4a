/// How the body of a request is delimited (RFC 9112 §6.3), read from fields that `RequestHeadParser` has checked.
enum RequestFraming: Hashable, Sendable {
    case length(Int)
    case chunked

    /// A length of more digits is refused as malformed: 18 always fit.
    static let maximumLengthDigits = 18

    /// Nil where two readers could understand the fields differently: both kinds, lists, other codings than `chunked`
    /// alone, and chunks in HTTP/1.0 (§6.1).
    static func read(_ fields: HeaderFields, minorVersion: UInt8) -> RequestFraming? {
        let lengths = fields.rawValues(of: "content-length")
        let codings = fields.rawValues(of: "transfer-encoding")
        guard !codings.isEmpty else {
            guard let value = lengths.first else { return .length(0) }
            guard lengths.count == 1, (1...maximumLengthDigits).contains(value.count),
                value.allSatisfy({ HTTPCharacter.isDigit($0) })
            else { return nil }
            return .length(value.reduce(0) { $0 * 10 + Int($1 - UInt8(ascii: "0")) })
        }
        guard lengths.isEmpty, codings.count == 1, minorVersion >= 1,
            codings[0].lazy.map(HTTPCharacter.lowercased).elementsEqual("chunked".utf8)
        else { return nil }
        return .chunked
    }
}

/// Takes the framing off the body of one request (RFC 9112 §6, §7.1), strictly: only CRLF ends a line, and nothing
/// stands between a chunk's size and its extensions. Extensions and trailers are checked, bounded and thrown away.
struct RequestBodyDecoder: Sendable {
    enum Step: Equatable, Sendable {
        /// More has to be received.
        case incomplete
        /// These of the bytes are the body's next.
        case data(Range<Int>)
        /// The body is whole; what follows is none of it.
        case end
        /// Answer with this status and reason, and close.
        case refused(HTTPStatus, reason: StaticString)

        static func == (a: Step, b: Step) -> Bool {
            switch (a, b) {
            case (.incomplete, .incomplete), (.end, .end): true
            case (.data(let a), .data(let b)): a == b
            case (.refused(let a, _), .refused(let b, _)): a == b
            default: false
            }
        }
    }

    private enum State {
        /// So many bytes are left, and are all there is.
        case counted(Int)
        /// A chunk's size; `digits` of it have come. Next: extension, chunk, trailer.
        case size(Int, digits: Int)
        case `extension`(size: Int)
        /// The LF behind a chunk's size.
        case sizeEnd(Int)
        /// So many bytes of a chunk are left. Next: dataEnd.
        case data(Int)
        case dataEnd
        case dataLineFeed
        /// At the start of a line behind the last chunk, or within one.
        case trailer(isAtStart: Bool)
        case trailerLineFeed
        case lastLineFeed
        case done
    }

    /// What a body may bring along beside itself: chunk extensions, and trailer fields.
    static let maximumExtraBytes = 4096
    /// A chunk's size of more digits is beyond every limit.
    private static let maximumSizeDigits = 15

    private var state: State
    /// What the body may still have.
    private var room: Int
    private var extraBytes = 0

    /// Of a body that may have `maximumBytes`. Nil where it is announced to have more: 413.
    init?(_ framing: RequestFraming, maximumBytes: Int) {
        room = maximumBytes
        switch framing {
        case .length(let count):
            guard count <= maximumBytes else { return nil }
            state = count == 0 ? .done : .counted(count)
        case .chunked:
            state = .size(0, digits: 0)
        }
    }

    /// Of a request that has none.
    static let empty = RequestBodyDecoder(done: ())

    private init(done: Void) {
        state = .done
        room = 0
    }

    /// Nothing more is to come.
    var isDone: Bool { if case .done = state { true } else { false } }

    /// The next step through `bytes`, from `offset` on, which moves behind what was used.
    mutating func next(_ bytes: UnsafeRawBufferPointer, _ offset: inout Int) -> Step {
        while true {
            switch state {
            case .done: return .end
            case .counted(let left):
                guard let piece = take(left, bytes, &offset) else { return .incomplete }
                state = left == piece.count ? .done : .counted(left - piece.count)
                return .data(piece)
            case .data(let left):
                guard let piece = take(left, bytes, &offset) else { return .incomplete }
                state = left == piece.count ? .dataEnd : .data(left - piece.count)
                return .data(piece)
            default:
                guard offset < bytes.count else { return .incomplete }
                if let refusal = framing(bytes[offset]) { return refusal }
                offset += 1
            }
        }
    }

    private func take(_ left: Int, _ bytes: UnsafeRawBufferPointer, _ offset: inout Int) -> Range<Int>? {
        guard offset < bytes.count else { return nil }
        let start = offset
        offset += min(left, bytes.count - start)
        return start..<offset
    }

    /// One byte that is not the body's.
    private mutating func framing(_ byte: UInt8) -> Step? {
        switch state {
        case .size(let size, let digits): return self.size(byte, size, digits)
        case .extension(let size):
            if byte == 0x0D { state = .sizeEnd(size) } else { return extra(byte) }
        case .sizeEnd(let size):
            guard byte == 0x0A else { return Self.malformed }
            state = size == 0 ? .trailer(isAtStart: true) : .data(size)
        case .dataEnd:
            guard byte == 0x0D else { return Self.malformed }
            state = .dataLineFeed
        case .dataLineFeed:
            guard byte == 0x0A else { return Self.malformed }
            state = .size(0, digits: 0)
        case .trailer(let isAtStart):
            guard byte != 0x0D else {
                state = isAtStart ? .lastLineFeed : .trailerLineFeed
                return nil
            }
            // A line that begins with whitespace would go on with the one before (§5.2).
            guard !isAtStart || HTTPCharacter.isToken(byte) else { return Self.malformed }
            state = .trailer(isAtStart: false)
            return extra(byte)
        case .trailerLineFeed:
            guard byte == 0x0A else { return Self.malformed }
            state = .trailer(isAtStart: true)
        case .lastLineFeed:
            guard byte == 0x0A else { return Self.malformed }
            state = .done
        case .counted, .data, .done:
            preconditionFailure("a byte of the body is read as framing")
        }
        return nil
    }

    private mutating func size(_ byte: UInt8, _ size: Int, _ digits: Int) -> Step? {
        if let digit = HTTPCharacter.hexadecimal(byte) {
            guard digits < Self.maximumSizeDigits else { return Self.tooLarge }
            state = .size(size << 4 | Int(digit), digits: digits + 1)
            return nil
        }
        guard digits > 0 else { return Self.malformed }
        guard size <= room else { return Self.tooLarge }
        room -= size
        switch byte {
        case 0x0D: state = .sizeEnd(size)
        case UInt8(ascii: ";"): state = .extension(size: size)
        default: return Self.malformed
        }
        return nil
    }

    /// A byte of an extension or a trailer field.
    private mutating func extra(_ byte: UInt8) -> Step? {
        guard HTTPCharacter.isFieldContent(byte) else { return Self.malformed }
        extraBytes += 1
        guard extraBytes <= Self.maximumExtraBytes else {
            return .refused(.badRequest, reason: "The chunks have too many extensions or trailer fields.")
        }
        return nil
    }

    private static let malformed = Step.refused(.badRequest, reason: "The chunks of the body are malformed.")
    private static let tooLarge = Step.refused(
        .contentTooLarge, reason: "The body is larger than the relay takes (limit requestBytes).")
}
