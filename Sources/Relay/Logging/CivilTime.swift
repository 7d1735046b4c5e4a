/// A moment as UTC calendar and clock, down to the millisecond.
struct CivilTime: Equatable {
    var year: Int
    var month: Int
    var day: Int
    var hour: Int
    var minute: Int
    var second: Int
    var millisecond: Int
    /// Sunday is 0.
    var weekday: Int

    /// `seconds` since 1970-01-01T00:00:00Z, leap seconds not counted, as clock_gettime(CLOCK_REALTIME) gives them.
    init(secondsSince1970 seconds: Int64, nanoseconds: Int64) {
        let days = Self.floorDivide(seconds, 86_400)
        let ofDay = Int(seconds - days * 86_400)
        hour = ofDay / 3600
        minute = ofDay / 60 % 60
        second = ofDay % 60
        millisecond = Int(nanoseconds / 1_000_000)
        let fromSunday = days + 4  // 1 January 1970 was a Thursday.
        weekday = Int(fromSunday - Self.floorDivide(fromSunday, 7) * 7)

        // Years that begin on 1 March put the leap day last, so months have a fixed pattern of lengths. Between
        // 0000-03-01 and 1970-01-01 lie 719 468 days; after 146 097 days, 400 years, the calendar repeats.
        let shifted = days + 719_468
        let era = Self.floorDivide(shifted, 146_097)
        let dayOfEra = Int(shifted - era * 146_097)
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        // March is 0; (153 m + 2) / 5 days lie before month m.
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
        month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        year = Int(era) * 400 + yearOfEra + (month <= 2 ? 1 : 0)
    }

    private static func floorDivide(_ a: Int64, _ b: Int64) -> Int64 {
        a >= 0 ? a / b : -((-a + b - 1) / b)
    }

    /// Appends `2026-11-21T01:22:03.123Z` (RFC 3339).
    func append(to bytes: inout [UInt8]) {
        for (value, digits, after) in [
            (year, 4, "-"), (month, 2, "-"), (day, 2, "T"), (hour, 2, ":"), (minute, 2, ":"), (second, 2, "."),
            (millisecond, 3, "Z"),
        ] {
            let text = String(value)
            for _ in text.utf8.count..<max(digits, text.utf8.count) { bytes.append(UInt8(ascii: "0")) }
            bytes.append(contentsOf: text.utf8)
            bytes.append(contentsOf: after.utf8)
        }
    }
}
