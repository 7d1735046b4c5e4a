/// What the relay refuses to exceed (DESIGN §11), with the defaults. What each one stops, its unit and its range stand
/// in one table, `Limits.descriptors`, from which parsing, printing, checking and `relayd explain` all work.
package struct Limits: Sendable, Equatable {
    package var handshakeTimeout: Duration = .seconds(10)
    package var handshakeBytes: Int = 16 << 10
    package var requestBytes: Int = 1 << 20
    package var messageBytes: Int = 1 << 20
    package var outboundHighBytes: Int = 1 << 20
    package var outboundLowBytes: Int = 256 << 10
    package var slowConsumerDeadline: Duration = .seconds(10)
    package var connections: Int = 100_000
    package var connectionsPerAddress: Int = 1_000
    package var channelsPerConnection: Int = 4_096
    package var channelCreditBytes: Int = 256 << 10
    package var messagesPerSecond: Int = 0
    package var pingInterval: Duration = .seconds(30)
    package var idleTimeout: Duration = .seconds(90)
    package var instructions: Int = 1_000
    package var instructionBytes: Int = 256 << 10
    package var burst: Duration = .milliseconds(10)
    package var callTime: Duration = .seconds(30)
    package var scriptMemory: Int = 64 << 20
    package var outputBytesPerCall: Int = 16 << 20
    package var httpRequests: Int = 256
    package var httpResponseBytes: Int = 1 << 20

    package init() {}

    /// Sets one limit from its text (`64KiB`, `10s`, `250ms`, or a plain number in the limit's unit).
    package mutating func set(_ name: String, to text: String) throws(ConfigurationError) {
        guard let descriptor = Limits.descriptor(named: name) else { throw Limits.unknown(name) }
        try descriptor.set(text, in: &self)
    }

    /// Sets one limit from `NAME=VALUE`, as `--limit` takes it; returns the name.
    @discardableResult
    package mutating func set(assignment: String) throws(ConfigurationError) -> String {
        guard let equals = assignment.firstIndex(of: "=") else {
            throw ConfigurationError("limit \"\(assignment)\" has no value: write NAME=VALUE, as in messageBytes=1MiB.")
        }
        let name = String(assignment[..<equals])
        try set(name, to: String(assignment[assignment.index(after: equals)...]))
        return name
    }

    /// What no single limit can show: the ones that must stand in an order.
    package func validate() throws(ConfigurationError) {
        guard outboundLowBytes < outboundHighBytes else {
            let low = LimitUnit.bytes.format(Int64(outboundLowBytes))
            let high = LimitUnit.bytes.format(Int64(outboundHighBytes))
            throw ConfigurationError(
                "limit outboundLowBytes (\(low)) must be less than outboundHighBytes (\(high)): set both.")
        }
    }

    static func unknown(_ name: String) -> ConfigurationError {
        let names = descriptors.map(\.name).joined(separator: ", ")
        return ConfigurationError("there is no limit \"\(name)\"; the limits are \(names).")
    }
}
