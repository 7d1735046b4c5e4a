/// The bytes of one message head and where its header fields lie in them (RFC 9112 §5). Names are lower-cased in place,
/// values stand without the whitespace around them.
struct HeaderFields: Sendable {
    /// More field lines than this are refused: browsers and proxies send about thirty.
    static let maximumCount = 100

    /// The whole head, field names lower-cased.
    private(set) var bytes: [UInt8]
    /// Where each field line begins, and then where the last one ends: four bytes a line, because a connection keeps
    /// its head for as long as it lives.
    private var lineStarts: [UInt32]

    /// Why a head is refused.
    enum Refusal: Error {
        case malformed(StaticString)
        case tooMany
    }

    /// Reads the field lines of `head`, which begin at `start` and end with the empty line that ends `head`. Every
    /// line ends with CRLF: whoever found the end has checked it (`HeadScan`).
    init(_ head: consuming [UInt8], from start: Int) throws(Refusal) {
        bytes = head
        lineStarts = []
        lineStarts.reserveCapacity(bytes[start...].count(where: { $0 == 0x0A }))
        var lineStart = start
        lineStarts.append(UInt32(start))
        while lineStart < bytes.count - 2 {
            guard lineStarts.count <= Self.maximumCount else { throw .tooMany }
            lineStart = try readLine(at: lineStart)
            lineStarts.append(UInt32(lineStart))
        }
    }

    /// Checks one line, lower-cases its name, and returns the start of the next.
    private mutating func readLine(at start: Int) throws(Refusal) -> Int {
        guard !HTTPCharacter.isWhitespace(bytes[start]) else {
            throw .malformed("A header line begins with whitespace.")  // Line folding: RFC 9112 §5.2.
        }
        var index = start
        while HTTPCharacter.isToken(bytes[index]) {
            bytes[index] = HTTPCharacter.lowercased(bytes[index])
            index += 1
        }
        guard index > start, bytes[index] == UInt8(ascii: ":") else {
            throw .malformed("A header line has no valid name before its colon.")
        }
        index += 1
        while HTTPCharacter.isFieldContent(bytes[index]) { index += 1 }
        guard bytes[index] == 0x0D else { throw .malformed("A header value holds a control character.") }
        return index + 2
    }

    private var lineCount: Int { lineStarts.count - 1 }

    /// Where a line lies, its CRLF left out.
    private func line(_ number: Int) -> Range<Int> {
        Int(lineStarts[number])..<Int(lineStarts[number + 1]) - 2
    }

    /// The values of every line of this name, in order. `name` is lower-case.
    func rawValues(of name: String) -> [ArraySlice<UInt8>] {
        let wanted = name.utf8
        return (0..<lineCount).compactMap { number in
            let line = line(number)
            let colon = line.lowerBound + wanted.count
            guard colon < line.upperBound, bytes[colon] == UInt8(ascii: ":"),
                bytes[line.lowerBound..<colon].elementsEqual(wanted)
            else { return nil }
            return Self.trimmed(bytes[(colon + 1)..<line.upperBound])
        }
    }

    /// The same as text; bytes that are not UTF-8 are repaired.
    func values(of name: String) -> [String] { rawValues(of: name).map { String(decoding: $0, as: UTF8.self) } }

    /// The items of a comma-separated list (RFC 9110 §5.6.1) over all lines of this name, without whitespace around
    /// them and without empty ones.
    func listItems(of name: String) -> [ArraySlice<UInt8>] {
        rawValues(of: name).flatMap { value in
            value.split(separator: UInt8(ascii: ",")).map(Self.trimmed).filter { !$0.isEmpty }
        }
    }

    /// Whether the list of this name has an item, which is given in lower case and found in any.
    func contains(_ item: String, in name: String) -> Bool {
        listItems(of: name).contains { $0.lazy.map(HTTPCharacter.lowercased).elementsEqual(item.utf8) }
    }

    /// Without spaces and tabs on either side.
    static func trimmed(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        var bytes = bytes.drop(while: HTTPCharacter.isWhitespace)
        while let last = bytes.last, HTTPCharacter.isWhitespace(last) { bytes.removeLast() }
        return bytes
    }

    /// Every name once, in the order of its first line, lines of one name joined with ", ".
    var all: [(name: String, value: String)] {
        var order: [(name: String, value: String)] = []
        var index: [String: Int] = [:]
        for number in 0..<lineCount {
            let line = bytes[line(number)]
            let rawName = line.prefix { $0 != UInt8(ascii: ":") }
            let name = String(decoding: rawName, as: UTF8.self)
            let value = String(decoding: Self.trimmed(line[(rawName.endIndex + 1)...]), as: UTF8.self)
            if let known = index[name] {
                order[known].value += ", " + value
            } else {
                index[name] = order.count
                order.append((name, value))
            }
        }
        return order
    }
}

/// Finds the end of a message head that arrives in pieces, and the line ends on the way.
///
/// Only CRLF ends a line here. RFC 9112 §2.2 would let a bare LF pass; since intermediaries disagree about it, it is a
/// known way to smuggle requests, and no client that speaks WebSocket sends it.
struct HeadScan: Sendable {
    /// Bytes that have been looked at.
    private var position = 0
    /// Lines that have ended.
    private var lineCount = 0
    /// Where the first line ends (its CR), once it does.
    private(set) var firstLineEnd: Int?

    enum Result {
        case incomplete
        /// The head is the first `length` bytes, empty line included.
        case complete(length: Int)
        /// A CR or LF stands alone, or a NUL.
        case badLineEnd
        case tooManyLines
    }

    /// Looks at what has come since the last call. `bytes` begins with the same bytes as then.
    mutating func advance(_ bytes: UnsafeRawBufferPointer) -> Result {
        while position < bytes.count {
            switch bytes[position] {
            case 0x0A:
                guard position > 0, bytes[position - 1] == 0x0D else { return .badLineEnd }
                if firstLineEnd == nil { firstLineEnd = position - 1 }
                position += 1
                if position >= 4, bytes[position - 3] == 0x0A { return .complete(length: position) }
                lineCount += 1
                guard lineCount <= HeaderFields.maximumCount + 1 else { return .tooManyLines }
            case 0x00:
                return .badLineEnd
            default:
                guard position == 0 || bytes[position - 1] != 0x0D else { return .badLineEnd }
                position += 1
            }
        }
        return .incomplete
    }
}
