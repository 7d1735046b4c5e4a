import Logging
import Testing

@testable import Relay

/// Stands in for the engine: it stages what a test has prepared, fails where a test says so, and remembers everything
/// that the app asks of it. Functions are numbers, each given out once.
final class RecordingEngine: InstructionEngine {
    enum Action: Equatable {
        case stageScript(String)
        case stageInstruction(String)
        case stageModule(String)
        case reload(unit: Int32, previous: Int)
        case commit(unit: Int32)
        case discard(unit: Int32)
        case activate(generation: Int, events: [String])
    }

    private(set) var actions: [Action] = []
    /// What the engine holds: functions of units and chains that are neither discarded nor released.
    private(set) var held: Set<FunctionReference> = []
    /// Released although it was not held: a use after free, or a double one.
    private(set) var wronglyReleased: [FunctionReference] = []
    /// Which functions a chain runs.
    private(set) var chains: [FunctionReference: (point: HookPoint, functions: [FunctionReference])] = [:]

    /// What the next script registers.
    var instructions: [(name: String, isPublic: Bool)] = []
    var hooks: [HookPoint] = []
    var stageFailure: ScriptFailure?
    var reloadFailure: ScriptFailure?
    /// So many chains can be made before memory is out; nil is no end.
    var chainsLeft: Int?

    var budgets = ScriptBudgets()
    var memoryBytes: Int { 0 }

    private var lastFunction: Int32 = 0
    private var lastUnit: Int32 = 0
    private var unitFunctions: [Int32: [FunctionReference]] = [:]

    /// Forgets what has been asked so far, not what is held.
    func clear() { actions = [] }

    private func makeFunction() -> FunctionReference {
        lastFunction += 1
        let function = FunctionReference(rawValue: lastFunction)
        held.insert(function)
        return function
    }

    private func unit(
        _ instructions: [(name: String, isPublic: Bool)], _ hooks: [HookPoint]
    ) throws(ScriptFailure) -> StagedUnit {
        if let stageFailure { throw stageFailure }
        lastUnit += 1
        let unit = StagedUnit(
            id: lastUnit,
            instructions: instructions.map {
                .init(name: $0.name, isPublic: $0.isPublic, summary: "about \($0.name)", function: makeFunction())
            },
            hooks: hooks.map { .init(point: $0, function: makeFunction()) })
        unitFunctions[lastUnit] = unit.instructions.map(\.function) + unit.hooks.map(\.function)
        return unit
    }

    func stage(script name: String, source: UnsafeRawBufferPointer) throws(ScriptFailure) -> StagedUnit {
        actions.append(.stageScript(name))
        return try unit(instructions, hooks)
    }

    func stage(instruction name: String, body: String, isPublic: Bool) throws(ScriptFailure) -> StagedUnit {
        actions.append(.stageInstruction(name))
        return try unit([(name, isPublic)], [])
    }

    func stage(module name: String, source: String) throws(ScriptFailure) -> StagedUnit {
        actions.append(.stageModule(name))
        return try unit([], [])
    }

    func runReload(of unit: StagedUnit, previousGeneration: Int) throws(ScriptFailure) {
        actions.append(.reload(unit: unit.id, previous: previousGeneration))
        if let reloadFailure { throw reloadFailure }
    }

    func commit(_ unit: StagedUnit) {
        actions.append(.commit(unit: unit.id))
        #expect(unitFunctions.removeValue(forKey: unit.id) != nil, "unit \(unit.id) is committed, and not held aside")
    }

    func discard(_ unit: StagedUnit) {
        actions.append(.discard(unit: unit.id))
        guard let functions = unitFunctions.removeValue(forKey: unit.id) else {
            Issue.record("unit \(unit.id) is discarded, and not held aside")
            return
        }
        held.subtract(functions)
    }

    func makeChain(_ point: HookPoint, _ functions: [FunctionReference]) -> FunctionReference? {
        if let left = chainsLeft {
            guard left > 0 else { return nil }
            chainsLeft = left - 1
        }
        #expect(held.isSuperset(of: functions), "a chain of functions that are gone")
        let chain = makeFunction()
        chains[chain] = (point, functions)
        return chain
    }

    func activate(generation: Int, eventChains: [String: FunctionReference]) {
        actions.append(.activate(generation: generation, events: eventChains.keys.sorted()))
    }

    func release(_ function: FunctionReference) {
        chains[function] = nil
        if held.remove(function) == nil { wronglyReleased.append(function) }
    }

    func call(
        _ function: FunctionReference, name: StaticOrInstructionName, arguments: CallArguments, id: CallID,
        wantsResult: Bool
    ) -> CallOutcome { .returned(json: nil, line: nil) }
    func evaluate(body: String, connection: ConnectionID, id: CallID) -> CallOutcome { .returned(json: nil, line: nil) }
    func timerFired(_ timer: ScriptTimerID) {}
    func answered(_ request: ScriptRequestID, _ result: OutboundResult) {}
    func configurationChanged() {}
    func forget(_ connection: ConnectionID) {}
}

/// An app on a loop that does not run, with a recording engine. The directory is the state's.
struct AppFixture {
    let app: App
    let engine: RecordingEngine
    let loop: EventLoop
    private let directory = TemporaryDirectory()

    /// Without a backend of the test's own it is epoll.
    init(limits: Limits = Limits(), backend: Backend? = nil) throws {
        var configuration = Configuration()
        configuration.limits = limits
        let shared = SharedState(
            configuration: configuration, credentials: try CredentialStore.open(stateDirectory: directory.path),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            makeEngine: { (_: any EngineHost, budgets: ScriptBudgets) throws(ScriptFailure) in
                let engine = RecordingEngine()
                engine.budgets = budgets
                return engine
            })
        loop = try EventLoop(index: 0, shared: shared, backend: backend ?? .epoll(EpollBackend()))
        shared.start([loop])
        app = try App.make(name: App.defaultName, loop: loop)
        engine = try #require(app.engine as? RecordingEngine)
    }

    /// Loads a script that registers these.
    @discardableResult
    func load(
        _ name: String, _ instructions: [String] = [], hooks: [HookPoint] = [], isDryRun: Bool = false,
        ifGeneration: Int? = nil
    ) throws(InstructionError) -> App.LoadResult {
        engine.instructions = instructions.map { ($0, true) }
        engine.hooks = hooks
        return try app.load(
            script: name, source: Array("-- source".utf8), isDryRun: isDryRun, ifGeneration: ifGeneration)
    }
}
