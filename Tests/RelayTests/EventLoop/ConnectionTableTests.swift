import Testing

@testable import Relay

@Suite struct ConnectionTableTests {
    private let fixture: AppFixture
    private let table = ConnectionTable()
    private let settings = ListenerSettings(
        ListenerURL(address: .internet(host: "127.0.0.1", port: 0)), boundPort: 1, isAdmin: false, tls: nil)

    init() throws { fixture = try AppFixture() }

    /// A connection that has no socket.
    private func connection() -> Connection {
        Connection(
            fileDescriptor: -1, address: .unix, listener: settings, loop: fixture.loop, isCounted: false,
            isAddressCounted: false)
    }

    @Test func `a token leads to its connection`() {
        let first = connection()
        let second = connection()
        table.insert(first)
        table.insert(second)
        #expect(table.count == 2)
        #expect(table[first.handle.token] === first)
        #expect(table[second.handle.token] === second)
        #expect(first.handle.token.owner == .connection)
        #expect(table.all.count == 2)
    }

    @Test func `the token of a connection that is gone finds nobody, not who has its slot now`() {
        let gone = connection()
        table.insert(gone)
        let token = gone.handle.token
        table.remove(gone)
        #expect(table[token] == nil)
        #expect(table.count == 0)
        let next = connection()
        table.insert(next)
        #expect(next.handle.token.index == token.index)
        #expect(next.handle.token != token)
        #expect(table[token] == nil)
        #expect(table[next.handle.token] === next)
    }

    @Test func `removing twice, or after the slot was given away, is harmless`() {
        let gone = connection()
        table.insert(gone)
        table.remove(gone)
        table.remove(gone)
        let next = connection()
        let another = connection()
        table.insert(next)
        table.remove(gone)
        table.insert(another)
        #expect(table.count == 2)
        #expect(next.handle.token != another.handle.token)
        #expect(table[next.handle.token] === next)
        #expect(table[another.handle.token] === another)
    }

    @Test func `slots are used again before there are more`() {
        let connections = (0..<10).map { _ in connection() }
        for connection in connections { table.insert(connection) }
        for connection in connections { table.remove(connection) }
        for _ in 0..<10 { table.insert(connection()) }
        #expect(table.all.allSatisfy { $0.handle.token.index < 10 })
        #expect(Set(table.all.map(\.handle.token)).count == 10)
    }

    @Test func `all is a copy: closing while going through it is fine`() {
        for _ in 0..<5 { table.insert(connection()) }
        for connection in table.all { table.remove(connection) }
        #expect(table.all.isEmpty)
        #expect(table.count == 0)
    }

    @Test func `tokens that were never given out find nobody`() {
        #expect(table[IOToken(slot: 0, generation: 0)] == nil)
        #expect(table[IOToken(rawValue: .max)] == nil)
        #expect(table.listener(IOToken(.listener, index: 0)) == nil)
        table.insert(connection())
        #expect(table[IOToken(slot: 1, generation: 0)] == nil)
        #expect(table[IOToken(.listener, index: 0)] == nil)
        #expect(table[IOToken(.mailbox)] == nil)
    }

    @Test func `listeners have tokens of their own`() {
        let first = Listener(fileDescriptor: -1, settings: settings)
        let second = Listener(fileDescriptor: -1, settings: settings)
        table.insert(first)
        table.insert(second)
        #expect(table.listener(first.handle.token) === first)
        #expect(table.listener(second.handle.token) === second)
        #expect(first.handle.token.owner == .listener)
        #expect(table.count == 0)
    }
}

@Suite struct IOTokenTests {
    @Test func `a token carries owner, slot and generation`() {
        let token = IOToken(slot: 0x7FFF_FFFF, generation: 0xFF_FFFF)
        #expect(token.owner == .connection)
        #expect(token.index == 0x7FFF_FFFF)
        #expect(token != IOToken(slot: 0x7FFF_FFFF, generation: 0))
    }

    @Test func `a generation wraps without touching the owner`() {
        #expect(IOToken(slot: 3, generation: 0x100_0000) == IOToken(slot: 3, generation: 0))
        #expect(IOToken(slot: 3, generation: .max).owner == .connection)
    }

    @Test(arguments: [IOToken.Owner.listener, .mailbox, .signals])
    func `every owner is told apart`(owner: IOToken.Owner) {
        let token = IOToken(owner, index: 5)
        #expect(token.owner == owner)
        #expect(token.index == 5)
        #expect(IOToken(rawValue: token.rawValue) == token)
    }

    @Test func `other words have no owner`() {
        #expect(IOToken(rawValue: 0).owner == nil)
        #expect(IOToken(rawValue: .max).owner == nil)
    }
}
