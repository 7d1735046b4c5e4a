/// A text that is equal to another only byte by byte. Swift's String takes `é` and `e` with an accent for the same, as
/// Unicode has it; to JSON, Lua and everybody on the wire they are two names, and must be to us.
package struct VerbatimText: Hashable, Sendable, Comparable, ExpressibleByStringLiteral, CustomStringConvertible {
    package let text: String

    package init(_ text: String) { self.text = text }
    package init(stringLiteral text: String) { self.text = text }

    package var description: String { text }

    package static func == (a: VerbatimText, b: VerbatimText) -> Bool { a.text.utf8.elementsEqual(b.text.utf8) }

    package static func < (a: VerbatimText, b: VerbatimText) -> Bool {
        a.text.utf8.lexicographicallyPrecedes(b.text.utf8)
    }

    package func hash(into hasher: inout Hasher) {
        for byte in text.utf8 { hasher.combine(byte) }
        hasher.combine(0xFF as UInt8)
    }
}
