/// Where the text of a JSON string lies, checked by `JSONScanner`: the bytes between its quotes.
struct JSONStringSlice: Hashable, Sendable {
    /// In the bytes that were scanned, without the quotes.
    let range: Range<Int>
    /// Without escapes, the text is these bytes as they are.
    let hasEscapes: Bool

    /// Lends the text, decoded; `bytes` are those that were scanned. Only a string with escapes is copied.
    @inline(__always)
    func withDecoded<R: ~Copyable, E: Error>(
        in bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws(E) -> R
    ) throws(E) -> R {
        let text = UnsafeRawBufferPointer(rebasing: bytes[range])
        guard hasEscapes else { return try body(text) }
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: text.count, alignment: 1)
        defer { copy.deallocate() }
        let count = JSONString.decode(text, into: copy)
        return try body(UnsafeRawBufferPointer(rebasing: copy[..<count]))
    }

    /// A copy of the text, decoded; `bytes` are those that were scanned.
    func decoded(in bytes: UnsafeRawBufferPointer) -> [UInt8] { withDecoded(in: bytes) { Array($0) } }

    /// Whether the decoded text is `name`, which is ASCII without controls.
    @inline(__always)
    func equals(_ name: StaticString, in bytes: UnsafeRawBufferPointer) -> Bool {
        let length = name.utf8CodeUnitCount
        if hasEscapes { return withDecoded(in: bytes) { Self.equal($0, name, length) } }
        guard range.count == length else { return false }
        return Self.equal(UnsafeRawBufferPointer(rebasing: bytes[range]), name, length)
    }

    @inline(__always)
    private static func equal(_ bytes: UnsafeRawBufferPointer, _ name: StaticString, _ length: Int) -> Bool {
        guard bytes.count == length else { return false }
        for index in 0..<length where bytes[index] != name.utf8Start[index] { return false }
        return true
    }
}

/// Strings of JSON texts, decoded and written (RFC 8259 §7).
enum JSONString {
    /// Writes the text that `escaped`, a string's checked content, stands for, and returns its length. It is never
    /// longer than `escaped`: `buffer` has room for as many bytes.
    static func decode(_ escaped: UnsafeRawBufferPointer, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var read = 0
        var written = 0
        while read < escaped.count {
            guard escaped[read] == UInt8(ascii: "\\") else {
                buffer[written] = escaped[read]
                read += 1
                written += 1
                continue
            }
            let kind = escaped[read + 1]
            read += 2
            if kind == UInt8(ascii: "u") {
                written += appendScalar(
                    escaped, &read, into: UnsafeMutableRawBufferPointer(rebasing: buffer[written...]))
            } else {
                buffer[written] = character(of: kind)
                written += 1
            }
        }
        return written
    }

    /// Decodes the one or two `\uXXXX` whose digits begin at `read`, moves `read` behind them, and returns how many
    /// bytes of UTF-8 it wrote.
    private static func appendScalar(
        _ escaped: UnsafeRawBufferPointer, _ read: inout Int, into buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        var value = unit(escaped, at: read)
        read += 4
        if value & 0xFC00 == 0xD800 {
            // `JSONScanner` has seen that the other half follows, behind its `\u`.
            value = 0x10000 + (value & 0x3FF) << 10 + unit(escaped, at: read + 2) & 0x3FF
            read += 6
        }
        switch value {
        case ..<0x80:
            buffer[0] = UInt8(value)
            return 1
        case ..<0x800:
            buffer[0] = UInt8(0xC0 | value >> 6)
            buffer[1] = UInt8(0x80 | value & 0x3F)
            return 2
        case ..<0x10000:
            buffer[0] = UInt8(0xE0 | value >> 12)
            buffer[1] = UInt8(0x80 | value >> 6 & 0x3F)
            buffer[2] = UInt8(0x80 | value & 0x3F)
            return 3
        default:
            buffer[0] = UInt8(0xF0 | value >> 18)
            buffer[1] = UInt8(0x80 | value >> 12 & 0x3F)
            buffer[2] = UInt8(0x80 | value >> 6 & 0x3F)
            buffer[3] = UInt8(0x80 | value & 0x3F)
            return 4
        }
    }

    private static func unit(_ bytes: UnsafeRawBufferPointer, at index: Int) -> UInt32 {
        (index..<index + 4).reduce(0) { $0 << 4 | UInt32(hexadecimal(bytes[$1]) ?? 0) }
    }

    /// What the letter of a short escape stands for.
    private static func character(of letter: UInt8) -> UInt8 {
        switch letter {
        case UInt8(ascii: "b"): 0x08
        case UInt8(ascii: "t"): 0x09
        case UInt8(ascii: "n"): 0x0A
        case UInt8(ascii: "f"): 0x0C
        case UInt8(ascii: "r"): 0x0D
        default: letter  // A quote, a backslash or a slash stands for itself.
        }
    }

    /// The value of a hexadecimal digit, nil for anything else.
    @inline(__always)
    static func hexadecimal(_ byte: UInt8) -> UInt8? { HTTPCharacter.hexadecimal(byte) }

    /// Appends `utf8`, valid UTF-8, as the content of a string, without quotes: only what RFC 8259 §7 demands is
    /// escaped, and U+007F, which terminals act on.
    static func appendEscaped(_ utf8: UnsafeRawBufferPointer, to bytes: inout [UInt8]) {
        var start = 0
        for (index, byte) in utf8.enumerated() where byte < 0x20 || byte == 0x22 || byte == 0x5C || byte == 0x7F {
            bytes.append(contentsOf: utf8[start..<index])
            appendEscape(of: byte, to: &bytes)
            start = index + 1
        }
        bytes.append(contentsOf: utf8[start...])
    }

    /// Appends `text` as the content of a string, without quotes.
    static func appendEscaped(_ text: String, to bytes: inout [UInt8]) {
        var text = text
        text.withUTF8 { appendEscaped(UnsafeRawBufferPointer($0), to: &bytes) }
    }

    /// Appends `text` as a string, quotes included.
    static func write(_ text: String, into bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        appendEscaped(text, to: &bytes)
        bytes.append(UInt8(ascii: "\""))
    }

    private static func appendEscape(of byte: UInt8, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\\"))
        switch byte {
        case 0x22, 0x5C: bytes.append(byte)
        case 0x08: bytes.append(UInt8(ascii: "b"))
        case 0x09: bytes.append(UInt8(ascii: "t"))
        case 0x0A: bytes.append(UInt8(ascii: "n"))
        case 0x0C: bytes.append(UInt8(ascii: "f"))
        case 0x0D: bytes.append(UInt8(ascii: "r"))
        default:
            bytes += "u00".utf8
            for digit in [byte >> 4, byte & 0xF] {
                bytes.append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
            }
        }
    }
}
