/// Percent-encoding (RFC 3986 §2.1).
enum PercentEncoding {
    /// The bytes that `text` stands for; nil where a `%` is not followed by two hexadecimal digits. With `plusIsSpace`,
    /// a `+` stands for a space, as in queries that a form made.
    static func decode(_ text: some Collection<UInt8>, plusIsSpace: Bool = false) -> [UInt8]? {
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
            case UInt8(ascii: "+") where plusIsSpace: bytes.append(0x20)
            default: bytes.append(byte)
            }
        }
        return bytes
    }
}

/// The query of a request target: `name=value` items between `&`.
enum Query {
    /// The value of the first item of this name, decoded; nil where there is none, or where it cannot be decoded to
    /// text without control characters. An item without `=` has the empty value.
    static func value(of name: String, in query: String) -> String? {
        for item in query.utf8.split(separator: UInt8(ascii: "&")) {
            let halves = item.split(separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
            guard let decodedName = PercentEncoding.decode(halves[0], plusIsSpace: true),
                decodedName.elementsEqual(name.utf8)
            else { continue }
            guard halves.count == 2 else { return "" }
            guard let value = PercentEncoding.decode(halves[1], plusIsSpace: true),
                value.allSatisfy({ $0 >= 0x20 && $0 != 0x7F })
            else { return nil }
            return String(validating: value, as: UTF8.self)
        }
        return nil
    }
}
