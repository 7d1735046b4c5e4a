import Relay
import Testing

@Suite struct ConfigurationTests {
    @Test func `the defaults are complete, valid and DESIGN's`() throws {
        let configuration = Configuration()
        try configuration.validate()
        #expect(configuration.listeners.map(\.description) == ["ws://127.0.0.1:8087"])
        #expect(configuration.stateDirectory == "./relayd-state")
        #expect(configuration.drainTimeout == .seconds(10))
        #expect(configuration.loops >= 1)
        #expect(configuration.limits == Limits())
    }

    @Test func `every setting reads what it prints`() throws {
        var configuration = Configuration()
        try configuration.set("script", to: ["a.lua", "scripts"], from: .flag)
        try configuration.set("tls.certificate", to: ["c.pem"], from: .file)
        try configuration.set("tls.key", to: ["k.pem"], from: .file)
        try configuration.set("allowedOrigins", to: ["HTTPS://Example.com:443"], from: .environment)
        try configuration.set("examples", to: ["true"], from: .file)
        try configuration.set("log.level", to: ["debug"], from: .flag)
        try configuration.set("drain.timeout", to: ["1500ms"], from: .flag)
        #expect(configuration.allowedOrigins == ["https://example.com"])
        var copy = Configuration()
        for setting in Configuration.settings {
            let values = setting.values(configuration)
            if values.isEmpty { continue }
            try copy.set(setting.name, to: values, from: .default)
        }
        #expect(copy == configuration)
    }

    @Test(arguments: [
        ("loops", ["0"]), ("loops", ["1025"]), ("loops", ["four"]), ("loops", ["1", "2"]), ("loops", []),
        ("io", ["kqueue"]), ("log.level", ["loud"]), ("log.format", ["xml"]),
        ("tls.selfSigned", ["yes"]), ("examples", ["1"]),
        ("state", [""]), ("script", ["a\u{0}b"]), ("drain.timeout", ["2h"]),
        ("listen", []), ("listen", ["ws://a:1", "nonsense"]), ("allowedOrigins", ["example.com"]),
        ("allowedOrigins", ["https://example.com/"]), ("allowedOrigins", ["null"]), ("allowedOrigins", ["https://"]),
        ("allowedOrigins", ["https://*.example.com"]), ("noSuch", ["1"]),
    ])
    func `a wrong value is refused and changes nothing`(_ name: String, _ values: [String]) {
        var configuration = Configuration()
        let error = #expect(throws: ConfigurationError.self) {
            try configuration.set(name, to: values, from: .flag)
        }
        #expect(error?.message.contains(name) == true || name == "listen")
        #expect(configuration == Configuration())
        #expect(configuration.sources.isEmpty)
    }

    @Test func `a certificate needs its key, excludes a self-signed one, and wss needs either`() throws {
        var configuration = Configuration()
        configuration.listeners = [try ListenerURL(parsing: "wss://127.0.0.1:0")]
        #expect(throws: ConfigurationError.self) { try configuration.validate() }
        configuration.tlsCertificate = "c.pem"
        #expect(throws: ConfigurationError.self) { try configuration.validate() }
        configuration.tlsKey = "k.pem"
        try configuration.validate()
        configuration.tlsSelfSigned = true
        #expect(throws: ConfigurationError.self) { try configuration.validate() }
        configuration.tlsCertificate = nil
        #expect(throws: ConfigurationError.self) { try configuration.validate() }
        configuration.tlsKey = nil
        try configuration.validate()
    }

    @Test func `an address can be given once, port 0 as often as wanted`() throws {
        var configuration = Configuration()
        try configuration.set("listen", to: ["ws://127.0.0.1:0", "ws://127.0.0.1:0"], from: .flag)
        try configuration.validate()
        try configuration.set("listen", to: ["ws://127.0.0.1:9", "ws://127.0.0.1:9?livecode=1"], from: .flag)
        #expect(throws: ConfigurationError.self) { try configuration.validate() }
    }

    @Test func `a reload knows what changed and what must wait for a restart (case 27)`() throws {
        let old = Configuration()
        var new = old
        try new.setLimit("messageBytes", to: "2MiB", from: .file)
        try new.set("log.level", to: ["debug"], from: .file)
        #expect(old.changes(in: new) == ["log.level", "limits.messageBytes"])
        #expect(old.changesThatNeedRestart(in: new) == [])
        try new.set("loops", to: [String(old.loops + 1)], from: .file)
        try new.set("listen", to: ["ws://127.0.0.1:8087?auth=x"], from: .file)
        #expect(old.changesThatNeedRestart(in: new) == ["listen", "loops"])
        var other = new
        try other.set("listen", to: ["ws://127.0.0.1:8087?auth=y"], from: .file)
        #expect(new.changes(in: other) == ["listen"], "a changed token is a change, although it prints alike")
        #expect(old.changes(in: old) == [])
    }

    @Test func `what is printed shows unit, range, liveness and source, and no secret`() throws {
        var configuration = Configuration()
        try configuration.set("listen", to: ["ws://127.0.0.1:1?auth=sesame"], from: .flag)
        try configuration.setLimit("burst", to: "5ms", from: .environment)
        let printed = configuration.printed()
        #expect(!printed.contains("sesame"))
        let lines = printed.split(separator: "\n")
        let burst = try #require(lines.first { $0.hasPrefix("  burst: ") })
        #expect(burst.hasPrefix("  burst: 5ms "))
        #expect(burst.hasSuffix("# milliseconds, 1ms to 10s; live; from environment"))
        #expect(lines.contains { $0.hasPrefix("listen:") && $0.hasSuffix("restart; from flag") })
        #expect(lines.contains("limits:"))
        for descriptor in Limits.descriptors {
            #expect(lines.contains { $0.hasPrefix("  \(descriptor.name): ") })
        }
    }
}
