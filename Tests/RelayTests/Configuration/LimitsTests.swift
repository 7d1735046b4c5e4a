import Relay
import Testing

@Suite struct LimitsTests {
    @Test func `every default lies in its own range and prints as text that reads back the same`() throws {
        for descriptor in Limits.descriptors {
            let amount = descriptor.amount(in: Limits())
            #expect(descriptor.range.contains(amount), "\(descriptor.name)")
            #expect(descriptor.unit.parse(descriptor.text(in: Limits())) == amount, "\(descriptor.name)")
        }
        try Limits().validate()
    }

    @Test func `every stored limit has exactly one descriptor`() {
        let stored = Mirror(reflecting: Limits()).children.compactMap(\.label)
        #expect(stored.count == 22)
        #expect(stored == Limits.descriptors.map(\.name))
    }

    @Test func `both ends of a range are accepted and one beyond each is refused with name, range and unit`() {
        for descriptor in Limits.descriptors {
            for amount in [descriptor.range.lowerBound, descriptor.range.upperBound] {
                var limits = Limits()
                #expect(throws: Never.self) { try limits.set(descriptor.name, to: descriptor.unit.format(amount)) }
                #expect(descriptor.amount(in: limits) == amount)
            }
            for amount in [descriptor.range.lowerBound - 1, descriptor.range.upperBound + 1] where amount >= 0 {
                var limits = Limits()
                let error = #expect(throws: ConfigurationError.self) {
                    try limits.set(descriptor.name, to: descriptor.unit.format(amount))
                }
                #expect(error?.message.contains(descriptor.name) == true)
                #expect(error?.message.contains(descriptor.rangeText) == true)
                #expect(error?.message.contains(descriptor.unit.name) == true || amount == 0)
                #expect(limits == Limits())
            }
        }
    }

    @Test(arguments: [
        ("messageBytes=2MiB", 2 << 20), ("messageBytes=64KiB", 64 << 10), ("messageBytes=1000", 1000),
        ("messageBytes=1_000 B", 1000), ("messageBytes=16777216", 16 << 20),
    ])
    func `bytes are read with and without a unit`(_ text: String, _ bytes: Int) throws {
        var limits = Limits()
        #expect(try limits.set(assignment: text) == "messageBytes")
        #expect(limits.messageBytes == bytes)
    }

    @Test func `times are read with and without a unit`() throws {
        var limits = Limits()
        try limits.set(assignment: "burst=5")
        #expect(limits.burst == .milliseconds(5))
        try limits.set(assignment: "burst=1500us")
        #expect(limits.burst == .microseconds(1500))
        try limits.set(assignment: "handshakeTimeout=250ms")
        #expect(limits.handshakeTimeout == .milliseconds(250))
        try limits.set(assignment: "idleTimeout=2min")
        #expect(limits.idleTimeout == .seconds(120))
        try limits.set(assignment: "callTime=7")
        #expect(limits.callTime == .seconds(7))
    }

    @Test(arguments: [
        "", "messageBytes", "messageBytes=", "messageBytes=-1", "messageBytes=1kb", "messageBytes=0x400",
        "messageBytes=1.5MiB", "messageBytes=99999999999999999999", "messageBytes=9223372036854775807GiB",
        "messageBytes=_1", "messageBytes=1_", "messageBytes= 1", "messageBytes=10s", "burst=10KiB", "burst=٣",
        "=1", "noSuch=1", "MessageBytes=1MiB", "messagesPerSecond=1s",
    ])
    func `what is no limit is refused and changes nothing`(_ text: String) {
        var limits = Limits()
        #expect(throws: ConfigurationError.self) { try limits.set(assignment: text) }
        #expect(limits == Limits())
    }

    @Test func `the low mark must be below the high mark`() throws {
        var limits = Limits()
        try limits.set("outboundHighBytes", to: "256KiB")
        let error = #expect(throws: ConfigurationError.self) { try limits.validate() }
        #expect(
            error?.message
                == "limit outboundLowBytes (256KiB) must be less than outboundHighBytes (256KiB): set both.")
    }

    @Test func `a limit names its variable`() {
        #expect(Limits.descriptor(named: "messageBytes")?.environmentName == "RELAYD_LIMIT_MESSAGE_BYTES")
        #expect(
            Limits.descriptor(named: "connectionsPerAddress")?.environmentName
                == "RELAYD_LIMIT_CONNECTIONS_PER_ADDRESS")
    }
}
