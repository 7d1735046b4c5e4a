import Glibc
import Logging
import Relay
import Testing

@testable import relayd

@Suite struct ConfigurationFileTests {
    private func apply(_ text: String) throws -> Configuration {
        var configuration = Configuration()
        try ConfigurationFile.apply(text, path: "relayd.yaml", to: &configuration)
        return configuration
    }

    @Test func `every setting can be written in the file`() throws {
        let configuration = try apply(
            """
            listen:
              - wss://0.0.0.0:443?auth=sesame
              - unix:/run/relayd.sock
            script: scripts/tunnel.lua
            state: /var/lib/relayd
            loops: 3
            io: epoll
            tls:
              certificate: c.pem
              key: k.pem
            allowedOrigins: [https://example.com]
            http:
              allow: [api.example.com, "10.0.0.0/8:8080"]
              ca: authorities.pem
            settings:
              target: http://api.example.com
              secret: whsec_MQ==
            log: {level: debug, format: json}
            drain:
              timeout: 5s
            limits:
              messageBytes: 64KiB
              burst: 20
            """)
        #expect(configuration.listeners.count == 2)
        #expect(configuration.listeners.first?.token == "sesame")
        #expect(configuration.scripts == ["scripts/tunnel.lua"])
        #expect(configuration.stateDirectory == "/var/lib/relayd")
        #expect(configuration.loops == 3)
        #expect(configuration.httpAllowList.entries.map(\.description) == ["api.example.com", "10.0.0.0/8:8080"])
        #expect(configuration.httpCertificateAuthorities == "authorities.pem")
        #expect(configuration.scriptSettings.map(\.value) == ["http://api.example.com", "whsec_MQ=="])
        #expect(configuration.io == .epoll)
        #expect(configuration.tlsKey == "k.pem")
        #expect(configuration.allowedOrigins == ["https://example.com"])
        #expect(configuration.logLevel == .debug)
        #expect(configuration.logFormat == .json)
        #expect(configuration.drainTimeout == .seconds(5))
        #expect(configuration.limits.messageBytes == 64 << 10)
        #expect(configuration.limits.burst == .milliseconds(20))
        #expect(configuration.sources["limits.burst"] == .file)
    }

    @Test(arguments: ["", "# nothing\n", "~", "limits:\n", "log:\n"])
    func `an empty file is the defaults`(_ text: String) throws {
        #expect(try apply(text) == Configuration())
    }

    @Test func `what --print-config prints can be read back`() throws {
        let configuration = try apply("loops: 7\nlimits: {burst: 7ms, messageBytes: 500}")
        // Settings without a value are printed as null, which a file leaves out.
        let printed = configuration.printed().split(separator: "\n").filter { !$0.contains(": null ") }
        #expect(try apply(printed.joined(separator: "\n")) == configuration)
    }

    @Test(arguments: [
        ("loops: 2\nnoSuch: 1", 2), ("loops: two", 1), ("loops: [2]", 1), ("loops: {a: 1}", 1), ("loops:", 1),
        ("loops: null", 1), ("\n\nlimits:\n  messageBytes: 1MB", 4), ("limits:\n  noSuch: 1", 2),
        ("limits: 5", 1), ("limits:\n  burst:\n    - 5ms", 3), ("tls.key: x", 1), ("tls:\n  colour: red", 2),
        ("listen:\n  - ws://a:1\n  - ftp://b", 3), ("listen: []", 1), ("listen:\n  - {a: b}", 2),
        ("a: b: c", 1), ("loops: 2\nloops: 3", 1), ("[1, 2]", 1), ("just text", 1), ("? [a]\n: b", 1),
        ("limits:\n  burst: 5ms\n  burst: 6ms", 2), ("drain: {timeout: 3h}", 1), ("io: kqueue", 1),
    ])
    func `what is wrong is told with file and line (case 23)`(_ text: String, _ line: Int) {
        let error = #expect(throws: ConfigurationError.self) { try apply(text) }
        #expect(error?.message.hasPrefix("relayd.yaml:\(line): ") == true, "\(error?.message ?? "nothing thrown")")
        #expect(error?.message.contains("\n") == false)
    }

    @Test func `what is no text file is refused, and nothing is waited for (case 23)`() throws {
        let directory = try TemporaryDirectory()
        let fifo = directory.path + "/fifo"
        try #require(mkfifo(fifo, 0o600) == 0)
        let link = directory.path + "/link"
        try #require(symlink(link, link) == 0)
        let garbage = try directory.write("garbage", [0xff, 0xfe, 0x00])
        let large = try directory.write("large", [UInt8](repeating: 0x23, count: ConfigurationFile.maximumBytes + 1))
        for path in [fifo, link, garbage, large, directory.path, "/dev/zero", directory.path + "/missing"] {
            var configuration = Configuration()
            let error = #expect(throws: ConfigurationError.self) {
                try ConfigurationFile.read(path, into: &configuration)
            }
            #expect(error?.message.contains(path) == true)
        }
    }
}

@Suite struct ConfigurationLoaderTests {
    private func loader(
        file: String? = nil, _ environment: [String: String] = [:],
        flags: [(name: String, texts: [String])] = [], limits: [String] = []
    ) -> ConfigurationLoader {
        ConfigurationLoader(file: file, environment: environment, flags: flags, limitFlags: limits)
    }

    @Test func `flags go before the environment, the environment before the file`() throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write(
            "relayd.yaml", "loops: 2\nstate: f\nio: epoll\nlimits: {burst: 2ms, callTime: 2s}")
        let configuration = try loader(
            file: file,
            ["RELAYD_LOOPS": "3", "RELAYD_STATE": "e", "RELAYD_LIMIT_BURST": "3ms", "RELAYD_IO": ""],
            flags: [(name: "loops", texts: ["4"])], limits: ["burst=4ms"]
        ).load()
        #expect(configuration.loops == 4)
        #expect(configuration.stateDirectory == "e")
        #expect(configuration.io == .epoll)
        #expect(configuration.limits.burst == .milliseconds(4))
        #expect(configuration.limits.callTime == .seconds(2))
        #expect(configuration.sources["loops"] == .flag)
        #expect(configuration.sources["state"] == .environment)
        #expect(configuration.sources["io"] == .file)
    }

    @Test func `a list in the environment is separated by blanks and replaces the file's`() throws {
        let configuration = try loader(["RELAYD_LISTEN": " ws://a:1  ws://b:2 "]).load()
        #expect(configuration.listeners.map(\.description) == ["ws://a:1", "ws://b:2"])
    }

    @Test func `a misspelt limit is refused, a foreign variable is left alone`() throws {
        #expect(throws: ConfigurationError.self) { try loader(["RELAYD_LIMIT_BURTS": "5ms"]).load() }
        let error = #expect(throws: ConfigurationError.self) { try loader(["RELAYD_LOOPS": "x"]).load() }
        #expect(error?.message.hasPrefix("RELAYD_LOOPS: ") == true)
        #expect(throws: Never.self) { try loader(["RELAYD_PORT": "tcp://10.0.0.1:8087"]).load() }
    }

    @Test func `a reload is all or nothing (case 27)`() throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("relayd.yaml", "loops: 2\nlimits: {burst: 2ms}")
        let loader = loader(file: file)
        let reloader = ConfigurationReloader(loader: loader, current: try loader.load())

        for wrong in [
            "loops: 2\nlimits: {burst: 3ms, callTime: never}", "loops: 2\nlimits: {burst: 3ms}\ncolour: red",
            "loops: 3\nlimits: {burst: 3ms}", "loops: 2\nlimits: {burst: 3ms}\ntls: {key: k.pem}", "loops: [",
        ] {
            try directory.write("relayd.yaml", wrong)
            guard case .failure(let error) = reloader.reload() else {
                Issue.record("\"\(wrong)\" was accepted")
                continue
            }
            #expect(error.message.hasSuffix("."))
            #expect(reloader.current.limits.burst == .milliseconds(2))
        }

        try directory.write("relayd.yaml", "loops: 2\nlimits: {burst: 3ms}")
        #expect(try reloader.reload().get().limits.burst == .milliseconds(3))
        #expect(reloader.current.limits.burst == .milliseconds(3))
    }

    @Test func `a change that needs a restart is named`() throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("relayd.yaml", "loops: 2")
        let loader = loader(file: file)
        let reloader = ConfigurationReloader(loader: loader, current: try loader.load())
        try directory.write("relayd.yaml", "loops: 3\nio: epoll")
        guard case .failure(let error) = reloader.reload() else {
            Issue.record("accepted")
            return
        }
        #expect(error.message.hasPrefix("loops, io cannot change while the relay runs"))
    }
}
