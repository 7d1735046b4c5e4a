/// Checks JSON text (RFC 8259) value by value without building anything: it only moves over the bytes.
///
/// The bytes must be valid UTF-8, as text messages are (`WebSocketReader`); beyond that it is strict: no comments, no
/// trailing commas, no bare control characters, numbers and escapes by the grammar, surrogates only in pairs. Nesting
/// is held in the bits of one word, so depth costs no stack and has a limit.
struct JSONScanner {
    /// Why text is no JSON. The text of a case completes "The message is no valid JSON: …".
    enum Problem: Error {
        case unexpectedEnd, unexpectedByte, controlCharacter, badEscape, loneSurrogate, badNumber, tooDeep

        var reason: StaticString {
            switch self {
            case .unexpectedEnd: "it ends too early"
            case .unexpectedByte: "something stands where it may not"
            case .controlCharacter: "a string holds a bare control character"
            case .badEscape: "a string holds an unknown escape"
            case .loneSurrogate: "a string holds half a surrogate pair"
            case .badNumber: "a number is malformed"
            case .tooDeep: "it is nested deeper than 64 levels"
            }
        }
    }

    /// What kind of value a first byte announces.
    enum Kind {
        case object, array, string, number, boolean, null
    }

    /// Objects and arrays may lie within one another so deep: one bit each of a word.
    static let maximumDepth = 64

    private let base: UnsafeRawPointer?
    private let count: Int
    /// The byte that comes next.
    private(set) var position = 0

    /// `bytes` must stay valid and unchanged while this is used.
    @inline(__always)
    init(_ bytes: UnsafeRawBufferPointer) {
        base = bytes.baseAddress
        count = bytes.count
    }

    /// The next byte, nil at the end.
    @inline(__always)
    var next: UInt8? {
        // SAFETY: `position` never exceeds `count`, and a buffer that is not empty has an address.
        guard position < count, let base else { return nil }
        return base.load(fromByteOffset: position, as: UInt8.self)
    }

    @inline(__always)
    mutating func skipWhitespace() {
        while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position &+= 1 }
    }

    /// Moves over `byte`, which must come next.
    @inline(__always)
    mutating func expect(_ byte: UInt8) throws(Problem) {
        guard let next else { throw .unexpectedEnd }
        guard next == byte else { throw .unexpectedByte }
        position &+= 1
    }

    /// Moves over `byte` where it comes next; says whether it did.
    @inline(__always)
    mutating func skip(_ byte: UInt8) -> Bool {
        guard next == byte else { return false }
        position &+= 1
        return true
    }

    /// The kind of the value that begins here.
    @inline(__always)
    func kind() throws(Problem) -> Kind {
        guard let next else { throw .unexpectedEnd }
        switch next {
        case UInt8(ascii: "{"): return .object
        case UInt8(ascii: "["): return .array
        case UInt8(ascii: "\""): return .string
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number
        case UInt8(ascii: "t"), UInt8(ascii: "f"): return .boolean
        case UInt8(ascii: "n"): return .null
        default: throw .unexpectedByte
        }
    }
}

// Whole values.
extension JSONScanner {
    /// Moves over one value. `depth` is how many objects and arrays are open around it.
    mutating func skipValue(depth: Int) throws(Problem) {
        var depth = depth
        let outermost = depth
        // Bit 0 is the innermost container: 1 for an object. 64 bits hold `maximumDepth` of them.
        var isObject: UInt64 = 0
        while true {
            switch try kind() {
            case .object:
                guard depth < Self.maximumDepth else { throw .tooDeep }
                position &+= 1
                skipWhitespace()
                if !skip(UInt8(ascii: "}")) {
                    depth &+= 1
                    isObject = isObject &<< 1 | 1
                    try skipKey()
                    continue
                }
            case .array:
                guard depth < Self.maximumDepth else { throw .tooDeep }
                position &+= 1
                skipWhitespace()
                if !skip(UInt8(ascii: "]")) {
                    depth &+= 1
                    isObject = isObject &<< 1
                    continue
                }
            case .string: _ = try string()
            case .number: try skipNumber()
            case .boolean: try skipWord(next == UInt8(ascii: "t") ? "true" : "false")
            case .null: try skipWord("null")
            }
            // A value has ended: close what ends with it, or go on to the next member or element.
            while depth > outermost {
                skipWhitespace()
                let inObject = isObject & 1 == 1
                if skip(UInt8(ascii: ",")) {
                    skipWhitespace()
                    if inObject { try skipKey() }
                    break
                }
                try expect(inObject ? UInt8(ascii: "}") : UInt8(ascii: "]"))
                depth &-= 1
                isObject &>>= 1
            }
            if depth == outermost { return }
        }
    }

    /// Moves over a member's name, the colon and whitespace behind it.
    @inline(__always)
    private mutating func skipKey() throws(Problem) {
        _ = try string()
        try skipColon()
    }

    /// Moves over a colon and the whitespace on both sides.
    @inline(__always)
    mutating func skipColon() throws(Problem) {
        skipWhitespace()
        try expect(UInt8(ascii: ":"))
        skipWhitespace()
    }

    /// Moves over `true`, `false` or `null`.
    private mutating func skipWord(_ word: StaticString) throws(Problem) {
        for index in 0..<word.utf8CodeUnitCount { try expect(word.utf8Start[index]) }
    }

    /// `[ "-" ] int [ "." 1*DIGIT ] [ ( "e" / "E" ) [ "+" / "-" ] 1*DIGIT ]`, without leading zeros (RFC 8259 §6).
    private mutating func skipNumber() throws(Problem) {
        _ = skip(UInt8(ascii: "-"))
        if !skip(UInt8(ascii: "0")) { try skipDigits() }
        if skip(UInt8(ascii: ".")) { try skipDigits() }
        if skip(UInt8(ascii: "e")) || skip(UInt8(ascii: "E")) {
            if !skip(UInt8(ascii: "+")) { _ = skip(UInt8(ascii: "-")) }
            try skipDigits()
        }
        if let next, next >= UInt8(ascii: "0"), next <= UInt8(ascii: "9") { throw .badNumber }
    }

    @inline(__always)
    private mutating func skipDigits() throws(Problem) {
        let start = position
        while let byte = next, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") { position &+= 1 }
        guard position > start else { throw next == nil ? .unexpectedEnd : .badNumber }
    }
}

// Strings.
extension JSONScanner {
    /// Moves over a string and says where its text lies.
    @inline(__always)
    mutating func string() throws(Problem) -> JSONStringSlice {
        try expect(UInt8(ascii: "\""))
        let start = position
        var hasEscapes = false
        while true {
            skipPlain()
            guard let byte = next else { throw .unexpectedEnd }
            switch byte {
            case UInt8(ascii: "\""):
                position &+= 1
                return JSONStringSlice(range: start..<(position &- 1), hasEscapes: hasEscapes)
            case UInt8(ascii: "\\"):
                hasEscapes = true
                try skipEscape()
            default:
                throw .controlCharacter
            }
        }
    }

    /// Moves to the next quote, backslash, control character, or the end; eight bytes at a time.
    @inline(__always)
    private mutating func skipPlain() {
        guard let base else { return }
        let ones: UInt64 = 0x0101_0101_0101_0101
        let highs: UInt64 = 0x8080_8080_8080_8080
        // SAFETY: every load ends at or before `count`.
        while count &- position >= 8 {
            let word = UInt64(littleEndian: base.loadUnaligned(fromByteOffset: position, as: UInt64.self))
            // A byte of x is zero where (x - 1) & ~x has its high bit; below 0x20 where (x - 0x20) & ~x has it. A
            // borrow can flag a byte above the first hit, never one below it, and only the first counts.
            let quote = word ^ (ones &* 0x22)
            let backslash = word ^ (ones &* 0x5C)
            let hits =
                (((quote &- ones) & ~quote) | ((backslash &- ones) & ~backslash) | ((word &- ones &* 0x20) & ~word))
                & highs
            guard hits == 0 else {
                position &+= hits.trailingZeroBitCount &>> 3
                return
            }
            position &+= 8
        }
        while let byte = next, byte >= 0x20, byte != 0x22, byte != 0x5C { position &+= 1 }
    }

    /// Moves over one escape, both halves of a surrogate pair together (RFC 8259 §7, §8.2).
    private mutating func skipEscape() throws(Problem) {
        position &+= 1
        guard let byte = next else { throw .unexpectedEnd }
        position &+= 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
            UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
            return
        case UInt8(ascii: "u"):
            let unit = try hexadecimal()
            if unit & 0xF800 != 0xD800 { return }
            guard unit < 0xDC00 else { throw .loneSurrogate }
            guard skip(UInt8(ascii: "\\")), skip(UInt8(ascii: "u")) else {
                throw next == nil ? .unexpectedEnd : .loneSurrogate
            }
            guard try hexadecimal() & 0xFC00 == 0xDC00 else { throw .loneSurrogate }
        default:
            throw .badEscape
        }
    }

    /// Four hexadecimal digits.
    private mutating func hexadecimal() throws(Problem) -> UInt16 {
        var unit: UInt16 = 0
        for _ in 0..<4 {
            guard let byte = next else { throw .unexpectedEnd }
            guard let digit = JSONString.hexadecimal(byte) else { throw .badEscape }
            unit = unit << 4 | UInt16(digit)
            position &+= 1
        }
        return unit
    }
}
