/// Percent-encoding (RFC 3986 §2.1).
enum PercentEncoding {
    /// The bytes that `text` stands for; nil where a `%` is not followed by two hexadecimal digits.
    static func decode(_ text: some Collection<UInt8>) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count)
        var iterator = text.makeIterator()
        while let byte = iterator.next() {
            switch byte {
            case UInt8(ascii: "%"):
                guard let high = iterator.next().flatMap(HTTPCharacter.hexadecimal),
                    let low = iterator.next().flatMap(HTTPCharacter.hexadecimal)
                else { return nil }
                bytes.append(high << 4 | low)
            default: bytes.append(byte)
            }
        }
        return bytes
    }
}

/// The query of a request target: `name=value` items between `&`. A `+` is a plus, as RFC 3986 has it and
/// tokens need it, not the blank that forms make of it.
enum Query {
    /// The value of the first item of this name, decoded; nil where there is none, or where it cannot be decoded to
    /// text without control characters. An item without `=` has the empty value.
    static func value(of name: String, in query: String) -> String? {
        for item in query.utf8.split(separator: UInt8(ascii: "&")) {
            let halves = item.split(separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
            guard let decodedName = PercentEncoding.decode(halves[0]),
                decodedName.elementsEqual(name.utf8)
            else { continue }
            guard halves.count == 2 else { return "" }
            guard let value = PercentEncoding.decode(halves[1]),
                value.allSatisfy({ $0 >= 0x20 && $0 != 0x7F })
            else { return nil }
            return String(validating: value, as: UTF8.self)
        }
        return nil
    }
}
