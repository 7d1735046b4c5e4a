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
        let time = CivilTime(secondsSince1970: second, nanoseconds: 0)
        return "\(weekdays[time.weekday]), \(digits(time.day)) \(months[time.month - 1]) \(time.year) "
            + "\(digits(time.hour)):\(digits(time.minute)):\(digits(time.second)) GMT"
    }

    private static func digits(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
}
