internal import Glibc
internal import Logging
internal import Synchronization

/// What all loops share: configuration, credentials, who lives where, and the counts that limits look at. Everything
/// here is immutable or behind a lock that is held for a few instructions; nothing of it is on the way of a frame.
final class SharedState: @unchecked Sendable {
    // `@unchecked Sendable`: `loops` is written once, before the threads start; the rest is Sendable by itself.
    private(set) var loops: [EventLoop] = []
    let logger: Logger
    let credentials: CredentialStore
    let directory = ConnectionDirectory()
    let apps = AppDirectory()
    /// By path.
    let files: [String: StaticFile]
    /// Nil where nobody has given one: scripts make no HTTP requests then.
    let outbound: (any OutboundHTTP)?
    let makeEngine: @Sendable (any EngineHost, ScriptBudgets) throws(ScriptFailure) -> any InstructionEngine

    private struct Counts {
        var connections = 0
        var byAddress: [SocketAddress: Int] = [:]
        var byCredential: [String: Int] = [:]
        /// What apps have begun and the relay should not end in the middle of: hearing of a connection's close, HTTP
        /// requests of scripts, so that somebody else can hear of it too, and what they have put off to another call.
        var work = 0
        var isDraining = false
        var isOver: Bool { isDraining && connections == 0 && work == 0 }

        mutating func enter(_ address: SocketAddress, _ limits: Limits) -> Refusal? {
            let count = byAddress[address.withoutPort, default: 0]
            // Everybody on a Unix socket has the same address, which says nothing.
            guard count < limits.connectionsPerAddress || !address.isInternet else {
                return .tooManyFromAddress(limit: limits.connectionsPerAddress)
            }
            byAddress[address.withoutPort] = count + 1
            return nil
        }
    }
    private let counts = Mutex(Counts())
    private let current: Mutex<Configuration>

    init(
        configuration: Configuration, credentials: CredentialStore, logger: Logger,
        files: [String: StaticFile] = [:], outbound: (any OutboundHTTP)? = nil,
        makeEngine: @escaping @Sendable (any EngineHost, ScriptBudgets) throws(ScriptFailure) -> any InstructionEngine
    ) {
        current = Mutex(configuration)
        self.credentials = credentials
        self.logger = logger
        self.files = files
        self.outbound = outbound
        self.makeEngine = makeEngine
    }

    /// Called once, before any loop runs.
    func start(_ loops: [EventLoop]) {
        self.loops = loops
    }

    // MARK: Configuration

    var configuration: Configuration { current.withLock { $0 } }

    /// Makes a new configuration the current one and tells every loop.
    func replace(_ configuration: Configuration) {
        current.withLock { $0 = configuration }
        broadcast(.configurationChanged)
    }

    func broadcast(_ message: LoopMessage) {
        for loop in loops { loop.mailbox.post(message) }
    }

    // MARK: Counting connections

    /// Counts one more connection, or says why there can be none. `address` is nil where it is a proxy's: then
    /// `enterLate` counts the client's.
    func enter(_ address: SocketAddress?, _ limits: Limits) -> Refusal? {
        counts.withLock { counts in
            guard counts.connections < limits.connections else {
                return .tooManyConnections(limit: limits.connections)
            }
            if let address, let refusal = counts.enter(address, limits) { return refusal }
            counts.connections += 1
            return nil
        }
    }

    /// Counts the address of a connection that is counted already.
    func enterLate(_ address: SocketAddress, _ limits: Limits) -> Refusal? {
        counts.withLock { $0.enter(address, limits) }
    }

    /// Counts one more connection of a credential; false where it has as many as it may.
    func enter(_ credential: Credential) -> Bool {
        counts.withLock { counts in
            let count = counts.byCredential[credential.id, default: 0]
            guard count < credential.maxConnections ?? .max else { return false }
            counts.byCredential[credential.id] = count + 1
            return true
        }
    }

    /// The connection is gone.
    func left(_ connection: Connection) {
        directory.remove(connection.id)
        // It ends when the app has heard of the close (`App.receive`).
        if connection.app != nil { beginWork() }
        guard connection.isCounted else { return }
        let address = connection.isAddressCounted ? connection.address.withoutPort : nil
        let credential = connection.credentialID
        let isLast = counts.withLock { counts in
            counts.connections -= 1
            if let address { Self.decrement(&counts.byAddress, address) }
            if let credential { Self.decrement(&counts.byCredential, credential) }
            return counts.isOver
        }
        if isLast { broadcast(.stop) }
    }

    func beginWork() { counts.withLock { $0.work += 1 } }

    func endWork(_ count: Int = 1) {
        let isLast = counts.withLock { counts in
            counts.work -= count
            return counts.isOver
        }
        if isLast { broadcast(.stop) }
    }

    private static func decrement<Key: Hashable>(_ counts: inout [Key: Int], _ key: Key) {
        guard let count = counts[key] else { return }
        counts[key] = count > 1 ? count - 1 : nil
    }

    // MARK: The end

    /// Lets nobody in any more; true where nobody is left to wait for.
    func beginDraining() -> Bool {
        counts.withLock { counts in
            counts.isDraining = true
            return counts.isOver
        }
    }

    // MARK: Logging

    /// A credential that was refused, with where it came from and never with itself.
    func logUnauthorized(_ reason: String, _ address: SocketAddress, instruction: String?) {
        var metadata: Logger.Metadata = ["remote": "\(address.host)", "reason": "\(reason)"]
        if let instruction { metadata["instruction"] = "\(instruction)" }
        logger.warning("unauthorized", metadata: metadata)
    }
}

/// Which loop a connection lives on: what makes a `ConnectionID` mean something everywhere. Sharded, so that loops
/// that accept and close do not wait for each other.
final class ConnectionDirectory: Sendable {
    private static let shardCount = 16
    private let shards: [Shard] = (0..<shardCount).map { _ in Shard() }

    private final class Shard: Sendable {
        let loops = Mutex<[ConnectionID: Int32]>([:])
    }

    private func shard(_ id: ConnectionID) -> Shard { shards[Int(id.rawValue % UInt64(Self.shardCount))] }

    func set(_ id: ConnectionID, loop: Int) { shard(id).loops.withLock { $0[id] = Int32(loop) } }
    func remove(_ id: ConnectionID) { _ = shard(id).loops.withLock { $0.removeValue(forKey: id) } }
    func loop(of id: ConnectionID) -> Int? { shard(id).loops.withLock { $0[id].map(Int.init) } }
}

/// Which apps there are, and the home loop of each. A name is reserved first, so that two who make an app of one name
/// at a time do not both get it, and published once the app is on its way to its loop, so that nobody is
/// there before it.
final class AppDirectory: Sendable {
    struct Home {
        var loop: Int
        /// The app's serial; nil as long as the name is only reserved.
        var serial: UInt64?
    }
    private let homes = Mutex<[String: Home]>([:])

    func homeLoop(of app: String) -> Int? {
        homes.withLock { homes in homes[app].flatMap { $0.serial == nil ? nil : $0.loop } }
    }

    /// Reserves the name on one of `loopCount` loops, in turns; nil where it is taken.
    func reserve(_ app: String, loopCount: Int) -> Int? {
        homes.withLock { homes in
            guard homes[app] == nil else { return nil }
            let loop = homes.count % loopCount
            homes[app] = Home(loop: loop, serial: nil)
            return loop
        }
    }

    func publish(_ app: String, serial: UInt64) { homes.withLock { $0[app]?.serial = serial } }

    /// The app could not be made after all.
    func release(_ app: String) { homes.withLock { $0[app] = nil } }

    /// Removes a published app; nil where there is none.
    func remove(_ app: String) -> (loop: Int, serial: UInt64)? {
        homes.withLock { homes in
            guard let home = homes[app], let serial = home.serial else { return nil }
            homes[app] = nil
            return (home.loop, serial)
        }
    }

    var all: [(name: String, loop: Int)] {
        let published = homes.withLock { homes in homes.filter { $0.value.serial != nil } }
        return published.map { (name: $0.key, loop: $0.value.loop) }.sorted { $0.name < $1.name }
    }
}
