internal import Glibc
internal import Logging
internal import Synchronization

/// A namespace: one script state, its instructions, its servers and the connections to it. Everything of an app happens
/// on its home loop, one thing at a time.
///
/// This file: how it is made and which connections it has. `App+Messages` dispatches what connections send, `App+Calls`
/// enters the engine and answers, `App+Changes` swaps instruction sets, `App+BuiltIns` are the relay's own
/// instructions, `App+Host` is what scripts can ask of the relay.
package final class App {
    /// The app at `/`.
    static let defaultName = Route.defaultApp

    let name: String
    /// Tells this app from others that had or will have its name.
    let serial: UInt64
    let shared: SharedState
    // SAFETY: loops are freed when the process ends. Set before anything can reach the app (`attach`).
    private(set) unowned(unsafe) var loop: EventLoop
    private(set) var engine: any InstructionEngine

    var set = InstructionSet.empty
    var servers = ServerRegistry()
    /// Every connection from its admission on, until its close hooks have run.
    var members: [ConnectionID: Member] = [:]
    /// What waits for a connection to have moved to the loop where its channels will be.
    var departures: [ConnectionID: [ChannelWork]] = [:]
    let channels = ChannelList()
    var links = Links()
    /// Channels whose client is a script here, until their close callbacks have run.
    var dialled: [ConnectionID: ScriptChannel] = [:]
    /// The one whose callback runs: the source that has to wait when a receiver is full.
    var callingChannel: ScriptChannel?
    /// The timer that looks for servers that take nothing, while something waits for one.
    var channelSweep: (serial: UInt64, timer: TimerID)?
    /// Calls that have yielded, and whom they will answer.
    var pending: [CallID: PendingCall] = [:]
    /// The connection whose message is being handled: the source that has to wait when a receiver is full.
    var caller: Member?
    /// What scripts caused and what can only happen once the engine has been left, in order.
    var afterwards: [Afterwards] = []
    var isInEngine = false
    private var isSettling = false
    private(set) var isShutDown = false
    var timers: [UInt64: ScriptTimer] = [:]
    /// HTTP requests of scripts that are not answered yet, with the bytes that each sends.
    var requests: [UInt64: Int] = [:]
    var requestedBytes = 0
    /// Connections that a script has told not to be read, and those whose messages are no instructions.
    var held: Set<ConnectionID> = []
    var uninstructed: Set<ConnectionID> = []
    /// Replies are written here, so that each needs no memory of its own.
    var scratch: [UInt8] = []

    enum Afterwards {
        case event(String, json: String)
        /// A handshake hook that had yielded has decided.
        case handshake(ConnectionID, CallOutcome)
        /// An operator closes a connection, which may be the operator's own: the answer goes first.
        case close(ConnectionID, CloseCode, String)
        /// Neighbours hear of servers.
        case tellLinks
    }

    private static let lastSerial = Atomic<UInt64>(0)

    struct ScriptTimer {
        var timer: TimerID
        /// Milliseconds between two firings; nil where it fires once.
        var interval: UInt64?
        /// A script has put off the rest of something to a call of its own: a relay that drains waits for it.
        var isWork = false
    }

    /// An app with an empty instruction set, whose home is `loop`; `attach` follows on that loop.
    static func make(name: String, loop: EventLoop) throws(ScriptFailure) -> App {
        let app = App(name: name, loop: loop)
        app.engine = try loop.shared.makeEngine(app, budgets(of: loop.shared.configuration.limits))
        return app
    }

    private init(name: String, loop: EventLoop) {
        self.name = name
        self.loop = loop
        serial = Self.lastSerial.wrappingAdd(1, ordering: .relaxed).newValue
        shared = loop.shared
        engine = NoEngine()
    }

    /// The app is at home: what has changed since it was made is caught up with.
    func attach(to loop: EventLoop) {
        self.loop = loop
        limitsChanged(loop.limits)
    }

    static func budgets(of limits: Limits) -> ScriptBudgets {
        var budgets = ScriptBudgets()
        budgets.burst = limits.burst
        budgets.callTime = limits.callTime
        budgets.memoryBytes = limits.scriptMemory
        budgets.outputBytesPerCall = limits.outputBytesPerCall
        return budgets
    }

    func limitsChanged(_ limits: Limits) {
        engine.budgets = Self.budgets(of: limits)
        engine.configurationChanged()
    }

    /// The app is removed: its connections are closed, its timers stop.
    func shutDown() {
        isShutDown = true
        for member in members.values {
            if let connection = member.here, connection.lifecycle.isBeforeOpen {
                connection.refuse(.notFound, "The app was removed.")
            } else {
                member.close(.goingAway, reason: "the app was removed")
            }
        }
        for (serial, timer) in timers { loop.cancel(script: serial, timer.timer) }
        shared.outbound?.cancelAll(app: serial)
        shared.endWork(requests.count + timers.values.count(where: \.isWork))
        timers = [:]
        requests = [:]
        abandonScriptChannels()
        abandonLinks()
    }

    // MARK: Connections

    /// A connection has asked to be let in.
    func admit(_ connection: Connection) {
        members[connection.id] = .here(connection)
        guard let chain = set.chains[.handshake] else { return admitted(connection) }
        call(chain, .fixed("handshake hook"), .handshake(connection: connection.id), .handshake(connection.id))
    }

    /// The scripts have nothing against it.
    func admitted(_ connection: Connection) {
        guard connection.lifecycle.isAdmitting, let purpose = connection.pendingUpgrade?.purpose else { return }
        switch purpose {
        case .instruction: connection.letIn()
        case .client(let server, let port): requestChannel(connection, server, port)
        case .server(let server, let options): register(connection, server, options)
        case .dedicated(let ticket): use(ticket, connection)
        }
    }

    /// What a connection has to say, on whichever loop it is.
    func receive(_ message: AppMessage) {
        switch message {
        case .message(let id, let bytes, let isText):
            guard let member = members[id], case .away(let connection) = member else { return }
            bytes.withUnsafeBytes { received($0, isText: isText, from: member) }
            connection.handled(bytes.count)
        case .taken(let id, let bytes):
            if case .away(let connection) = members[id] { connection.taken(bytes) }
        case .opened(let id):
            opened(id)
        case .open(let request):
            open(request)
            if case .away(let connection) = members[request.client] { connection.handled(0) }
        case .linkDrains(let id):
            linkDrains(id)
        case .closed(let id, let code, let reason):
            closed(id, code, reason)
            shared.endWork()
        case .answered(let request, let result):
            answered(request, result)
        case .channel(let id):
            dialled[id]?.next()
        }
    }

    /// The connection is let in: tell the scripts.
    private func opened(_ id: ConnectionID) {
        if case .away(let connection) = members[id] { connection.wasOpen = true }
        guard let member = members[id], !linkOpened(member), let chain = set.chains[.open] else { return }
        call(chain, .fixed("open hook"), .open(connection: id), .hook(id))
    }

    /// The connection is gone, and no script is running: tell the scripts.
    private func closed(_ id: ConnectionID, _ code: CloseCode, _ reason: String) {
        guard let member = members[id] else { return }
        let freed = servers.removeAll(of: id)
        let wasLink = linkClosed(id, code, reason)
        if member.wasOpen, !wasLink, let chain = set.chains[.close] {
            let arguments = CallArguments.close(connection: id, code: code.rawValue, reason: reason)
            call(chain, .fixed("close hook"), arguments, .hook(nil))
        }
        for server in freed { emit("server.destroyed", server, id) }
        tellLinks(about: freed)
        settle()
        if case .away(let connection) = members.removeValue(forKey: id) { connection.releaseWaiters() }
        engine.forget(id)
        held.remove(id)
        uninstructed.remove(id)
        // What waited for it to move finds out now that it is gone.
        for work in departures.removeValue(forKey: id) ?? [] { advance(work) }
    }

    // MARK: What follows from a call

    func emit(_ event: String, _ server: ServerID, _ connection: ConnectionID) {
        guard set.chains[.event(VerbatimText(event))] != nil else { return }
        var json = Array(#"{"server":"#.utf8)
        server.write(into: &json)
        json.append(contentsOf: #","connection":\#(connection.rawValue)}"#.utf8)
        afterwards.append(.event(event, json: String(decoding: json, as: UTF8.self)))
    }

    /// Does what had to wait for the engine to be left. It can cause more; that follows in order.
    func settle() {
        // What is done here calls the engine, and every call settles: one of them does it for all.
        guard !isInEngine, !isSettling else { return }
        isSettling = true
        defer { isSettling = false }
        while !afterwards.isEmpty {
            let batch = afterwards
            afterwards.removeAll(keepingCapacity: true)
            for work in batch { settle(work) }
        }
    }

    private func settle(_ work: Afterwards) {
        switch work {
        case .event(let event, let json):
            guard let chain = set.chains[.event(VerbatimText(event))] else { return }
            call(chain, .fixed("event hook"), .event(json: json), .hook(nil))
        case .handshake(let connection, let outcome):
            finish(.handshake(connection), outcome)
        case .close(let connection, let code, let reason):
            members[connection]?.close(code, reason: reason)
        case .tellLinks:
            tellNeighbours()
        }
    }
}

/// An app on its way to its home loop. `@unchecked Sendable`: whoever makes it forgets it when posting this.
struct AppTransfer: @unchecked Sendable {
    let app: App
    init(_ app: App) { self.app = app }
}

/// Stands in for the engine while an app is being made, since an engine needs its host first.
private final class NoEngine: InstructionEngine {
    private let failure = ScriptFailure(code: .internal, message: "the app has no engine")
    var budgets = ScriptBudgets()
    var memoryBytes: Int { 0 }
    func stage(script name: String, source: UnsafeRawBufferPointer) throws(ScriptFailure) -> StagedUnit {
        throw failure
    }
    func stage(instruction name: String, body: String, isPublic: Bool) throws(ScriptFailure) -> StagedUnit {
        throw failure
    }
    func stage(module name: String, source: String) throws(ScriptFailure) -> StagedUnit { throw failure }
    func runReload(of unit: StagedUnit, previousGeneration: Int) throws(ScriptFailure) { throw failure }
    func commit(_ unit: StagedUnit) {}
    func discard(_ unit: StagedUnit) {}
    func makeChain(_ point: HookPoint, _ functions: [FunctionReference]) -> FunctionReference? { nil }
    func activate(generation: Int, eventChains: [String: FunctionReference]) {}
    func release(_ function: FunctionReference) {}
    func call(
        _ function: FunctionReference, name: StaticOrInstructionName, arguments: CallArguments, id: CallID,
        wantsResult: Bool
    ) -> CallOutcome { .failed(failure) }
    func evaluate(body: String, connection: ConnectionID, id: CallID) -> CallOutcome { .failed(failure) }
    func timerFired(_ timer: ScriptTimerID) {}
    func answered(_ request: ScriptRequestID, _ result: OutboundResult) {}
    func configurationChanged() {}
    func forget(_ connection: ConnectionID) {}
}
