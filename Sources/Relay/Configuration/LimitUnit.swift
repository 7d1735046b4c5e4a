/// What a limit or another amount counts, and how it is read and written. Amounts are carried as `Int64`: bytes,
/// pieces, or nanoseconds.
package enum LimitUnit: Sendable, Equatable {
    case bytes
    case count
    case perSecond
    /// A time; a number without a suffix counts seconds.
    case seconds
    /// A time; a number without a suffix counts milliseconds.
    case milliseconds

    /// The unit of a number without a suffix, as `--print-config` shows it.
    package var name: String {
        switch self {
        case .bytes: "bytes"
        case .count: "count"
        case .perSecond: "per second"
        case .seconds: "seconds"
        case .milliseconds: "milliseconds"
        }
    }

    /// Suffixes with their factors, the largest first; the first whole one is what `format` writes.
    private var suffixes: [(text: String, factor: Int64)] {
        switch self {
        case .bytes: [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)]
        case .count, .perSecond: []
        case .seconds, .milliseconds:
            [
                ("h", 3_600_000_000_000), ("min", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000),
                ("us", 1_000), ("ns", 1),
            ]
        }
    }

    private var factorWithoutSuffix: Int64 {
        switch self {
        case .bytes, .count, .perSecond: 1
        case .seconds: 1_000_000_000
        case .milliseconds: 1_000_000
        }
    }

    /// What a reader may write, for error sentences.
    package var syntax: String {
        switch self {
        case .bytes: "a whole number of bytes, or one with B, KiB, MiB or GiB"
        case .count: "a whole number"
        case .perSecond: "a whole number per second"
        case .seconds: "a whole number of seconds, or one with ms, s, min or h"
        case .milliseconds: "a whole number of milliseconds, or one with us, ms, s, min or h"
        }
    }

    /// The amount in bytes, pieces or nanoseconds; nil where the text is not one, or does not fit.
    package func parse(_ text: String) -> Int64? {
        let digits = text.utf8.prefix {
            (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) || $0 == UInt8(ascii: "_")
        }
        guard let first = digits.first, first != UInt8(ascii: "_"), digits.last != UInt8(ascii: "_") else { return nil }
        var number: Int64 = 0
        for digit in digits where digit != UInt8(ascii: "_") {
            let (tens, over) = number.multipliedReportingOverflow(by: 10)
            let (sum, overToo) = tens.addingReportingOverflow(Int64(digit - UInt8(ascii: "0")))
            guard !over, !overToo else { return nil }
            number = sum
        }
        var suffix = text[digits.endIndex...]
        if suffix.first == " " { suffix.removeFirst() }
        let factor: Int64
        if suffix.isEmpty {
            factor = factorWithoutSuffix
        } else if let found = suffixes.first(where: { $0.text == suffix }) {
            factor = found.factor
        } else {
            return nil
        }
        let (amount, over) = number.multipliedReportingOverflow(by: factor)
        return over ? nil : amount
    }

    /// The shortest text that `parse` reads back as the same amount.
    package func format(_ amount: Int64) -> String {
        guard amount != 0 else { return "0" }
        for (text, factor) in suffixes where amount % factor == 0 { return "\(amount / factor)\(text)" }
        return String(amount)
    }
}

extension Duration {
    /// Whole nanoseconds, held at the ends of the range (292 years) where it does not fit.
    package var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (whole, over) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overToo) = whole.addingReportingOverflow(attoseconds / 1_000_000_000)
        return over || overToo ? (seconds < 0 ? .min : .max) : sum
    }
}
