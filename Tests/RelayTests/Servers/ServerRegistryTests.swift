import Testing

@testable import Relay

@Suite struct ServerRegistryTests {
    private let a = ConnectionID(rawValue: 1)
    private let b = ConnectionID(rawValue: 2)
    private let box = ServerID.name("box")

    private func install(
        _ server: ServerID, _ connection: ConnectionID, replaces: Bool = false, in registry: inout ServerRegistry
    ) -> ServerRegistry.InstallAction {
        registry.install(server, connection, ServerOptions(replaces: replaces))
    }

    private func uninstall(_ server: ServerID, in registry: inout ServerRegistry) -> Bool { registry.uninstall(server) }

    private func removeAll(of connection: ConnectionID, in registry: inout ServerRegistry) -> [ServerID] {
        registry.removeAll(of: connection)
    }

    @Test func `a free id is taken by whoever comes first`() {
        var registry = ServerRegistry()
        #expect(registry[box] == nil)
        #expect(install(box, a, in: &registry) == .installed)
        #expect(registry[box] == a)
        #expect(install(box, b, in: &registry) == .taken)
        #expect(registry[box] == a)
        #expect(removeAll(of: b, in: &registry) == [])
    }

    @Test(arguments: [false, true])
    func `installing the same again changes nothing`(replaces: Bool) {
        var registry = ServerRegistry()
        #expect(install(box, a, in: &registry) == .installed)
        #expect(install(box, a, replaces: replaces, in: &registry) == .unchanged)
        #expect(registry.all.count == 1)
        #expect(removeAll(of: a, in: &registry) == [box])
    }

    @Test func `replacing tells who has to go, and that connection holds the id no more`() {
        var registry = ServerRegistry()
        #expect(install(box, a, in: &registry) == .installed)
        #expect(install(.number(0), a, in: &registry) == .installed)
        #expect(install(box, b, replaces: true, in: &registry) == .replaced(a))
        #expect(registry[box] == b)
        // The old holder goes: what it lost stays with the new one.
        #expect(removeAll(of: a, in: &registry) == [.number(0)])
        #expect(registry[box] == b)
        #expect(registry[.number(0)] == nil)
    }

    @Test func `a name of digits is no number`() {
        var registry = ServerRegistry()
        #expect(install(.number(0), a, in: &registry) == .installed)
        #expect(registry[.name("0")] == nil)
        #expect(install(.name("0"), b, in: &registry) == .installed)
        #expect(registry[.number(0)] == a)
        #expect(registry[.name("0")] == b)
    }

    @Test func `an id that was uninstalled is free, and its holder keeps the others`() {
        var registry = ServerRegistry()
        #expect(!uninstall(box, in: &registry))
        #expect(install(box, a, in: &registry) == .installed)
        #expect(install(.number(7), a, in: &registry) == .installed)
        #expect(uninstall(box, in: &registry))
        #expect(!uninstall(box, in: &registry))
        #expect(registry[box] == nil)
        #expect(install(box, b, in: &registry) == .installed)
        #expect(removeAll(of: a, in: &registry) == [.number(7)])
    }

    @Test func `a connection that is gone frees everything that it held, once`() {
        var registry = ServerRegistry()
        for server in [ServerID.name("b"), .name("a"), .number(3)] {
            #expect(install(server, a, in: &registry) == .installed)
        }
        #expect(install(.name("other"), b, in: &registry) == .installed)
        #expect(removeAll(of: a, in: &registry) == [.number(3), .name("a"), .name("b")])
        #expect(removeAll(of: a, in: &registry) == [])
        #expect(registry.all.map(\.server) == [.name("other")])
    }

    @Test func `everything is listed in the order of the connections`() {
        var registry = ServerRegistry()
        #expect(install(.name("x"), b, in: &registry) == .installed)
        #expect(install(.name("y"), a, in: &registry) == .installed)
        #expect(registry.all.map(\.connection) == [a, b])
        #expect(registry.all.map(\.server) == [.name("y"), .name("x")])
    }

    /// Both directions of the book agree, whatever happened before.
    @Test func `it agrees with a plain dictionary over many random changes`() {
        var registry = ServerRegistry()
        var expected: [ServerID: ConnectionID] = [:]
        let servers: [ServerID] = [.name("a"), .name("0"), .number(0), .number(-1), .name("")]
        let connections = (1...4).map { ConnectionID(rawValue: $0) }
        var state: UInt64 = 1
        func choose(_ count: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407  // Knuth's MMIX generator.
            return Int((state >> 33) % UInt64(count))
        }
        for _ in 0..<5000 {
            let server = servers[choose(servers.count)]
            let connection = connections[choose(connections.count)]
            switch choose(5) {
            case 0:
                let held = expected.filter { $0.value == connection }.map(\.key)
                #expect(Set(removeAll(of: connection, in: &registry)) == Set(held))
                for server in held { expected[server] = nil }
            case 1:
                #expect(uninstall(server, in: &registry) == (expected.removeValue(forKey: server) != nil))
            case let other:
                let replaces = other == 2
                let action = install(server, connection, replaces: replaces, in: &registry)
                let holder = expected[server]
                if holder == nil || replaces { expected[server] = connection }
                switch holder {
                case nil: #expect(action == .installed)
                case connection?: #expect(action == .unchanged)
                case let holder?: #expect(action == (replaces ? .replaced(holder) : .taken))
                }
            }
            #expect(Dictionary(uniqueKeysWithValues: registry.all.map { ($0.server, $0.connection) }) == expected)
        }
    }
}

@Suite struct ServerIDTests {
    @Test(arguments: [
        (ServerID.name("box"), #""box""#), (.name("0"), #""0""#), (.number(0), "0"), (.number(-7), "-7"),
        (.number(.max), "9223372036854775807"), (.name("a\"b\\c\n"), #""a\"b\\c\n""#), (.name(""), #""""#),
    ])
    func `a name is a JSON string, a number a JSON number`(server: ServerID, json: String) {
        var bytes = Array("[".utf8)
        server.write(into: &bytes)
        #expect(String(decoding: bytes, as: UTF8.self) == "[" + json)
    }

    @Test func `it prints as an operator writes it`() {
        #expect(ServerID.name("box").description == "box")
        #expect(ServerID.number(-3).description == "-3")
    }

    @Test func `names that Unicode takes for the same and the wire does not are two servers`() {
        var registry = ServerRegistry()
        let one = ConnectionID(rawValue: 1)
        #expect(registry.install(.name("caf\u{E9}"), one, ServerOptions(replaces: false)) == .installed)
        #expect(registry[.name("cafe\u{301}")] == nil)
        #expect(registry[.name("caf\u{E9}")] == one)
    }
}
