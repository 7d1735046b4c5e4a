/// A pattern for whole names: `*` stands for any run of characters, `?` for exactly one, everything else for itself.
package struct Glob: Hashable, Sendable, CustomStringConvertible {
    /// The pattern as it was written.
    package let pattern: String

    /// Patterns longer than this are refused: a match costs pattern × name steps at worst.
    static let maximumBytes = 256

    /// Nil for a pattern that is empty, too long, or holds control characters.
    package init?(_ pattern: String) {
        guard (1...Self.maximumBytes).contains(pattern.utf8.count),
            pattern.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7f })
        else { return nil }
        self.pattern = pattern
    }

    package func matches(_ name: String) -> Bool {
        var pattern = pattern
        var name = name
        return pattern.withUTF8 { pattern in name.withUTF8 { name in Self.matches(pattern, name) } }
    }

    package var description: String { pattern }

    /// Greedy with one point of return: a later star makes every earlier one final, because what it matched is as
    /// short as can be. So no more than pattern × name steps, however many stars there are.
    private static func matches(_ pattern: UnsafeBufferPointer<UInt8>, _ name: UnsafeBufferPointer<UInt8>) -> Bool {
        var inPattern = 0
        var inName = 0
        /// Where to go on after giving the last star one more character; negative before the first star.
        var afterStar = -1
        var starEnd = 0
        while inName < name.count {
            if inPattern < pattern.count, pattern[inPattern] == UInt8(ascii: "*") {
                inPattern += 1
                afterStar = inPattern
                starEnd = inName
            } else if inPattern < pattern.count, pattern[inPattern] == UInt8(ascii: "?") {
                inPattern += 1
                inName = nextCharacter(in: name, after: inName)
            } else if inPattern < pattern.count, pattern[inPattern] == name[inName] {
                inPattern += 1
                inName += 1
            } else if afterStar >= 0 {
                starEnd = nextCharacter(in: name, after: starEnd)
                inPattern = afterStar
                inName = starEnd
            } else {
                return false
            }
        }
        return pattern[inPattern...].allSatisfy { $0 == UInt8(ascii: "*") }
    }

    /// The start of the next UTF-8 character: past all continuation bytes, which have the form 10xxxxxx.
    private static func nextCharacter(in name: UnsafeBufferPointer<UInt8>, after index: Int) -> Int {
        var next = index + 1
        while next < name.count, name[next] & 0xc0 == 0x80 { next += 1 }
        return next
    }
}
