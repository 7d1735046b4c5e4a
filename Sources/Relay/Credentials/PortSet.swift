/// Some of the ports 0–65535: `*`, `22`, `80,443`, `8000-8100`, or several of these with commas between.
package struct PortSet: Hashable, Sendable, CustomStringConvertible {
    /// In order, apart from each other by more than one.
    private let ranges: [ClosedRange<UInt16>]

    /// More items than this are refused.
    static let maximumItems = 64

    /// All ports.
    package static let all = PortSet(ranges: [0...UInt16.max])

    private init(ranges: [ClosedRange<UInt16>]) { self.ranges = ranges }

    /// Nil where the text is no set of ports: an empty item, a port above 65535, a range whose end is before its start.
    package init?(_ text: String) {
        if text == "*" {
            self = .all
            return
        }
        let items = text.split(separator: ",", maxSplits: Self.maximumItems, omittingEmptySubsequences: false)
        guard items.count <= Self.maximumItems else { return nil }
        var ranges: [ClosedRange<UInt16>] = []
        for item in items {
            let ends = item.split(separator: "-", maxSplits: 2, omittingEmptySubsequences: false)
            guard ends.count <= 2, let first = Self.port(ends[0]), let last = Self.port(ends[ends.count - 1]),
                first <= last
            else { return nil }
            ranges.append(first...last)
        }
        self.ranges = Self.merge(ranges)
    }

    package func contains(_ port: UInt16) -> Bool { ranges.contains { $0.contains(port) } }

    package var description: String {
        if self == .all { return "*" }
        return ranges.map { range in
            range.lowerBound == range.upperBound ? "\(range.lowerBound)" : "\(range.lowerBound)-\(range.upperBound)"
        }.joined(separator: ",")
    }

    /// Decimal digits and nothing else; `UInt16.init` would take a sign.
    private static func port(_ text: Substring) -> UInt16? {
        guard text.utf8.count <= 5, text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
        return UInt16(text)
    }

    private static func merge(_ ranges: [ClosedRange<UInt16>]) -> [ClosedRange<UInt16>] {
        var merged: [ClosedRange<UInt16>] = []
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            // As Int: the port after 65535 does not fit.
            if let last = merged.last, Int(range.lowerBound) <= Int(last.upperBound) + 1 {
                merged[merged.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                merged.append(range)
            }
        }
        return merged
    }
}
