import COpenSSL
import Glibc

/// Reads the times of certificates (RFC 5280 §4.1.2.5), always in UTC.
enum CertificateTime {
    /// Seconds since 1970; nil where the time does not parse.
    static func seconds(_ time: UnsafePointer<ASN1_TIME>?) -> Int64? {
        guard var broken = brokenDown(time) else { return nil }
        return Int64(timegm(&broken))
    }

    /// The day, as `2026-01-31`; "an unknown day" where the time does not parse.
    static func day(_ time: UnsafePointer<ASN1_TIME>?) -> String {
        guard let broken = brokenDown(time) else { return "an unknown day" }
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(Int(broken.tm_year) + 1900)-\(two(broken.tm_mon + 1))-\(two(broken.tm_mday))"
    }

    private static func brokenDown(_ time: UnsafePointer<ASN1_TIME>?) -> tm? {
        var broken = tm()
        guard let time, ASN1_TIME_to_tm(time, &broken) == 1 else { return nil }
        return broken
    }
}
