/// The `Date` of responses (RFC 9110 §6.6.1), written anew once a second.
struct HTTPDate {
    private var second = Int64.min
    private var text = ""

    /// IMF-fixdate (RFC 9110 §5.6.7); `second` is Unix time.
    mutating func text(at second: Int64) -> String {
        if second != self.second {
            self.second = second
            text = Self.format(second)
        }
        return text
    }

    private static let weekdays = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
    private static let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]

    private static func format(_ second: Int64) -> String {
        let time = Int(second)
        let days = time / 86_400
        let (year, month, day) = date(days: days)
        let weekday = weekdays[(days + 4) % 7]  // 1 January 1970 was a Thursday.
        let (hour, minute) = (time / 3_600 % 24, time / 60 % 60)
        return "\(weekday), \(digits(day)) \(months[month]) \(year) "
            + "\(digits(hour)):\(digits(minute)):\(digits(time % 60)) GMT"
    }

    private static func digits(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }

    /// Of the Gregorian calendar, from days since 1970; `month` counts from 0. Years begin in March here, so that a
    /// leap day is the last of its year, and 400 of them have 146 097 days.
    private static func date(days: Int) -> (year: Int, month: Int, day: Int) {
        let shifted = days + 719_468  // From 1 March of the year 0.
        let (era, dayOfEra) = shifted.quotientAndRemainder(dividingBy: 146_097)
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let month = (shiftedMonth + 2) % 12
        let year = era * 400 + yearOfEra + (month < 2 ? 1 : 0)
        return (year, month, dayOfYear - (153 * shiftedMonth + 2) / 5 + 1)
    }
}
