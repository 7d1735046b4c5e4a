/// One limit: what an operator may write, and where it is kept.
package struct LimitDescriptor: Sendable {
    enum Place: Sendable {
        case number(WritableKeyPath<Limits, Int> & Sendable)
        case time(WritableKeyPath<Limits, Duration> & Sendable)
    }

    package let name: String
    package let unit: LimitUnit
    /// In bytes, pieces or nanoseconds.
    package let range: ClosedRange<Int64>
    /// Whether a reload changes it for what is already open; otherwise it waits for the next start.
    package let changesLive: Bool
    /// What it stops, with which code, and what else there is to know: one or two sentences.
    package let explanation: String
    let place: Place

    /// The value in `limits`, in bytes, pieces or nanoseconds.
    package func amount(in limits: Limits) -> Int64 {
        switch place {
        case .number(let path): Int64(limits[keyPath: path])
        case .time(let path): limits[keyPath: path].nanoseconds
        }
    }

    /// The value as `--limit` takes it: `64KiB`, `10s`.
    package func text(in limits: Limits) -> String { unit.format(amount(in: limits)) }

    /// `1KiB to 64MiB`
    package var rangeText: String { "\(unit.format(range.lowerBound)) to \(unit.format(range.upperBound))" }

    /// `RELAYD_LIMIT_MESSAGE_BYTES`
    package var environmentName: String { "RELAYD_LIMIT_" + upperSnakeCase(name) }

    func set(_ text: String, in limits: inout Limits) throws(ConfigurationError) {
        guard let amount = unit.parse(text) else {
            throw ConfigurationError("limit \(name) is \"\(text)\", but must be \(unit.syntax), from \(rangeText).")
        }
        guard range.contains(amount) else {
            throw ConfigurationError("limit \(name) is \(text), but must be from \(rangeText) (\(unit.name)).")
        }
        switch place {
        case .number(let path): limits[keyPath: path] = Int(amount)
        case .time(let path): limits[keyPath: path] = .nanoseconds(amount)
        }
    }
}

/// `messageBytes` → `MESSAGE_BYTES`, `tls.selfSigned` → `TLS_SELF_SIGNED`.
func upperSnakeCase(_ name: String) -> String {
    var result = ""
    for character in name {
        if character == "." {
            result.append("_")
            continue
        }
        if character.isUppercase { result.append("_") }
        result.append(contentsOf: character.uppercased())
    }
    return result
}

extension Limits {
    package static func descriptor(named name: String) -> LimitDescriptor? { descriptors.first { $0.name == name } }

    /// The one table of limits, in DESIGN's order.
    package static let descriptors: [LimitDescriptor] = handshakeAndOutput + counts + scripting

    private static let kibi: Int64 = 1 << 10
    private static let mebi: Int64 = 1 << 20
    private static let gibi: Int64 = 1 << 30
    private static let millisecond: Int64 = 1_000_000
    private static let day: Int64 = 86_400_000 * millisecond

    private static func bytes(
        _ name: String, _ path: WritableKeyPath<Limits, Int> & Sendable, _ range: ClosedRange<Int64>,
        _ explanation: String
    ) -> LimitDescriptor {
        LimitDescriptor(
            name: name, unit: .bytes, range: range, changesLive: true, explanation: explanation, place: .number(path))
    }

    private static func count(
        _ name: String, _ path: WritableKeyPath<Limits, Int> & Sendable, _ range: ClosedRange<Int64>,
        unit: LimitUnit = .count, _ explanation: String
    ) -> LimitDescriptor {
        LimitDescriptor(
            name: name, unit: unit, range: range, changesLive: true, explanation: explanation, place: .number(path))
    }

    private static func time(
        _ name: String, _ path: WritableKeyPath<Limits, Duration> & Sendable, _ range: ClosedRange<Int64>,
        unit: LimitUnit = .seconds, _ explanation: String
    ) -> LimitDescriptor {
        LimitDescriptor(
            name: name, unit: unit, range: range, changesLive: true, explanation: explanation, place: .time(path))
    }

    private static let handshakeAndOutput: [LimitDescriptor] = [
        time(
            "handshakeTimeout", \.handshakeTimeout, 10 * millisecond...3_600_000 * millisecond,
            "From accept to the 101, TLS included, however slowly the bytes come. After it the connection gets 408 "
                + "where HTTP can still be spoken, and is closed."),
        bytes(
            "handshakeBytes", \.handshakeBytes, 512...mebi,
            "The request head. A longer one is answered with 431, a longer request line with 414."),
        bytes(
            "requestBytes", \.requestBytes, 0...gibi,
            "The body of an HTTP request that a script answers. A larger one is answered with 413."),
        bytes(
            "messageBytes", \.messageBytes, 125...gibi,
            "One message on an instruction connection, all its fragments together. A larger one closes the "
                + "connection with 1009. A channel's message has no limit: it streams."),
        bytes(
            "outboundHighBytes", \.outboundHighBytes, 2 * kibi...gibi,
            "Output queued for one connection. Above it the relay stops reading what feeds the connection and "
                + "conn:send answers \"backpressure\"."),
        bytes(
            "outboundLowBytes", \.outboundLowBytes, kibi...gibi,
            "Below it, after the high mark was passed, the relay reads again. Must be less than outboundHighBytes."),
        time(
            "slowConsumerDeadline", \.slowConsumerDeadline, 10 * millisecond...3_600_000 * millisecond,
            "A connection whose queue stays above outboundHighBytes for so long is closed with 4003."),
    ]

    private static let counts: [LimitDescriptor] = [
        count(
            "connections", \.connections, 1...10_000_000,
            "Open connections of the whole relay. One more is answered with 503. The process also needs a file "
                + "descriptor for each (ulimit -n)."),
        count(
            "connectionsPerAddress", \.connectionsPerAddress, 1...10_000_000,
            "Open connections from one remote address. One more is answered with 503."),
        count(
            "channelsPerConnection", \.channelsPerConnection, 1...10_000_000,
            "Channels that one connection can have open. One more is refused with the code `limit`."),
        bytes(
            "channelCreditBytes", \.channelCreditBytes, kibi...gibi,
            "What a sender may have unacknowledged on one channel. Exceeding it closes the channel, not the "
                + "connection. Holds for channels opened from then on."),
        count(
            "messagesPerSecond", \.messagesPerSecond, 0...100_000_000, unit: .perSecond,
            "Messages that one connection may send, averaged over a second; 0 is off. Above it the connection is "
                + "closed with 4006."),
        time(
            "pingInterval", \.pingInterval, 10 * millisecond...day,
            "A connection that has been silent for so long is sent a ping. Keep it below idleTimeout, so that a "
                + "live peer has time to answer."),
        time(
            "idleTimeout", \.idleTimeout, 10 * millisecond...day,
            "A connection from which nothing has come for so long, not even a pong, is closed with 4008."),
    ]

    private static let scripting: [LimitDescriptor] = [
        count(
            "instructions", \.instructions, 1...1_000_000,
            "Instructions in one app. A change that would make more is refused with the code `limit`."),
        bytes(
            "instructionBytes", \.instructionBytes, 64...64 * mebi,
            "The text of one instruction's body, as `add instruction` takes it. A longer one is refused with the code "
                + "`limit`. It travels in one message, so messageBytes bounds it too."),
        time(
            "burst", \.burst, millisecond...10_000 * millisecond, unit: .milliseconds,
            "Lua without yielding. A call that runs longer fails with `budget_exceeded`; no other connection of its "
                + "loop waits longer than this for one script."),
        time(
            "callTime", \.callTime, millisecond...day,
            "One call in all, from its start to its end, time in which it is suspended included. A longer one fails "
                + "with `budget_exceeded`."),
        bytes(
            "scriptMemory", \.scriptMemory, mebi...64 * gibi,
            "What one app's Lua state may hold. An allocation beyond it fails with `memory_exceeded`."),
        bytes(
            "outputBytesPerCall", \.outputBytesPerCall, kibi...16 * gibi,
            "What one call may send to all connections together, the bodies of relay.http included. More fails with "
                + "`output_exceeded`."),
        count(
            "httpRequests", \.httpRequests, 1...4_096,
            "HTTP requests (relay.http) of one app under way at a time. Four times as many wait for their turn; more "
                + "are answered with the code `limit`."),
        bytes(
            "httpResponseBytes", \.httpResponseBytes, kibi...64 * mebi,
            "The body of an HTTP answer (relay.http). A longer one is given up and answered with the code `limit`."),
    ]
}
