import Relay
import Testing

@testable import Scripting

/// What a call ended with, with nothing lent any more.
enum Ending: Equatable {
    case returned(String?)
    case refused(Int, String)
    case connect(ConnectDecision)
    case response(Int, fields: String, body: String)
    case suspended
    case failed(ScriptFailure)

    init(_ outcome: CallOutcome) {
        self =
            switch outcome {
            case .returned(let json, _): .returned(json.map { String(decoding: $0, as: UTF8.self) })
            case .refused(let status, let reason): .refused(status, reason)
            case .connect(let decision): .connect(decision)
            case .response(let status, let fields, let body):
                .response(
                    status, fields: String(decoding: fields, as: UTF8.self),
                    body: String(decoding: body, as: UTF8.self))
            case .suspended: .suspended
            case .failed(let failure): .failed(failure)
            }
    }

    var failure: ScriptFailure? {
        if case .failed(let failure) = self { failure } else { nil }
    }

    var json: String? {
        if case .returned(let json) = self { json } else { nil }
    }
}

/// A relay without sockets: it remembers what scripts asked of it, and time stands still.
final class RecordingHost: EngineHost {
    struct Message: Equatable {
        var connection: UInt64
        var text: String
        var isText = true
    }
    struct Timer {
        var delay: Duration
        var repeats: Bool
    }

    var sent: [Message] = []
    var sentBytes = 0
    var keepsMessages = true
    var sendResult = ScriptSendResult.queued
    var closed: [String] = []
    var open: Set<UInt64> = Set(1...100)
    var unknown: Set<UInt64> = []
    var admins: Set<UInt64> = []
    var servers: [ServerID: ConnectionID] = [:]
    var refusesInstall: ErrorCode?
    var piped: [String] = []
    var refusesPipe: ErrorCode?
    var channels: [String] = []
    var connectResult = ConnectResult.channel(2)
    var dialled: [(callbacks: DialCallbacks, target: String)] = []
    var dialResult = DialResult.channel(ConnectionID(rawValue: 1_000))
    var offered: [ServerID: PortSet] = [:]
    var timers: [UInt64: Timer] = [:]
    var lastTimer: UInt64 = 0
    var maximumTimers = 10_000
    var finished: [CallID: Ending] = [:]
    var failures: [ScriptFailure] = []
    var logs: [String] = []
    var rights: Set<String> = []
    var configJSON = #"{"name":"test","nested":{"list":[1,2]}}"#

    func send(_ bytes: UnsafeRawBufferPointer, isText: Bool, to connection: ConnectionID) -> ScriptSendResult {
        guard open.contains(connection.rawValue) else { return .dropped }
        sentBytes += bytes.count
        if keepsMessages {
            let text = String(decoding: bytes, as: UTF8.self)
            sent.append(Message(connection: connection.rawValue, text: text, isText: isText))
        }
        return sendResult
    }

    func close(_ connection: ConnectionID, code: UInt16, reason: String) -> Bool {
        closed.append("\(connection) \(code) \(reason)")
        return open.remove(connection.rawValue) != nil
    }

    func isOpen(_ connection: ConnectionID) -> Bool { open.contains(connection.rawValue) }

    func facts(of connection: ConnectionID) -> ConnectionFacts? {
        if unknown.contains(connection.rawValue) { return nil }
        return ConnectionFacts(
            id: connection, app: "default", remoteAddress: "192.0.2.\(connection)", remotePort: 4711, path: "/here",
            query: "a=b", headers: [("host", "example.org"), ("origin", "https://example.org")], port: 8087,
            isAdmin: admins.contains(connection.rawValue), subprotocol: connection.rawValue == 2 ? "relay.v1" : nil,
            tls: connection.rawValue == 2 ? "TLSv1.3" : nil)
    }

    func may(_ connection: ConnectionID, _ serial: CallID, _ right: String) -> Bool? {
        right.isEmpty ? nil : rights.contains("\(connection) \(serial.rawValue) \(right)")
    }

    func install(server: ServerID, connection: ConnectionID, options: ServerOptions) -> ErrorCode? {
        if let refusesInstall { return refusesInstall }
        if servers[server] != nil, !options.replaces { return .conflict }
        servers[server] = connection
        offered[server] = options.ports
        return nil
    }

    func uninstall(server: ServerID) -> Bool { servers.removeValue(forKey: server) != nil }
    func server(_ server: ServerID) -> ConnectionID? { servers[server] }

    func pipe(_ one: ConnectionID, _ other: ConnectionID) -> ErrorCode? {
        if let refusesPipe { return refusesPipe }
        piped.append("\(one) \(other)")
        return nil
    }

    func connect(_ connection: ConnectionID, server: ServerID, port: UInt16, metadata: String?) -> ConnectResult {
        channels.append("\(connection) \(server) \(port) \(metadata ?? "-")")
        return connectResult
    }

    func dial(server: ServerID, port: UInt16, callbacks: DialCallbacks, metadata: String?) -> DialResult {
        dialled.append((callbacks, "\(server) \(port) \(metadata ?? "-")"))
        return dialResult
    }

    func schedule(after delay: Duration, repeats: Bool) -> ScriptTimerID? {
        guard timers.count < maximumTimers else { return nil }
        lastTimer += 1
        timers[lastTimer] = Timer(delay: delay, repeats: repeats)
        return ScriptTimerID(rawValue: lastTimer)
    }

    func cancel(_ timer: ScriptTimerID) { timers[timer.rawValue] = nil }

    var held: Set<UInt64> = []
    var requests: [OutboundRequest] = []
    var refusesRequest: OutboundFailure?

    func hold(_ connection: ConnectionID, _ isHeld: Bool) -> Bool {
        if isHeld { held.insert(connection.rawValue) } else { held.remove(connection.rawValue) }
        return open.contains(connection.rawValue)
    }
    func takeMessages(of connection: ConnectionID) -> Bool { open.contains(connection.rawValue) }
    func request(_ request: OutboundRequest) -> Result<ScriptRequestID, OutboundFailure> {
        if let refusesRequest { return .failure(refusesRequest) }
        requests.append(request)
        return .success(ScriptRequestID(rawValue: UInt64(requests.count)))
    }

    func callFinished(_ id: CallID, _ outcome: CallOutcome) { finished[id] = Ending(outcome) }
    func unattendedFailure(_ failure: ScriptFailure) { failures.append(failure) }

    func log(level: ScriptLogLevel, message: String, fields: [(name: String, value: String)]) {
        let pairs = fields.sorted { $0.name < $1.name }.map { " \($0.name)=\($0.value)" }
        logs.append("\(level): \(message)\(pairs.joined())")
    }

    func wallClockSeconds() -> Double { 1_700_000_000.5 }
    func monotonicSeconds() -> Double { 12.25 }
    func randomBytes(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 1) } }
    func sha256(_ bytes: UnsafeRawBufferPointer) -> [UInt8] { Array(repeating: UInt8(bytes.count & 255), count: 32) }
    func hmacSHA256(key: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        Array(repeating: UInt8((key.count * 16 + bytes.count) & 255), count: 32)
    }
    func constantTimeEqual(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool { a.elementsEqual(b) }
}

/// An engine with its host, and the steps that the relay would take.
final class Bench {
    let host = RecordingHost()
    let engine: LuaEngine
    private var instructions: [String: Instruction] = [:]
    private var hooks: [(point: HookPoint, function: FunctionReference)] = []
    private var lastCall: UInt64 = 0
    private(set) var generation = 0

    /// Budgets are far larger than what tests need, so that a slow machine changes nothing, except where a test is
    /// about them.
    init(_ change: (inout ScriptBudgets) -> Void = { _ in }) throws {
        var budgets = ScriptBudgets()
        budgets.burst = .seconds(10)
        budgets.loadTime = .seconds(10)
        change(&budgets)
        engine = try LuaEngine(host: host, budgets: budgets)
    }

    func stage(_ source: String, name: String = "test.lua") throws -> StagedUnit {
        var source = source
        return try source.withUTF8 { try engine.stage(script: name, source: UnsafeRawBufferPointer($0)) }
    }

    /// The whole transaction.
    func load(_ source: String, name: String = "test.lua") throws {
        let unit = try stage(source, name: name)
        do {
            try engine.runReload(of: unit, previousGeneration: generation)
        } catch {
            engine.discard(unit)
            throw error
        }
        accept(unit)
    }

    func add(_ name: String, _ body: String) throws {
        accept(try engine.stage(instruction: name, body: body, isPublic: true))
    }

    func accept(_ unit: StagedUnit) {
        engine.commit(unit)
        generation += 1
        for staged in unit.instructions {
            if let old = instructions[staged.name] { engine.release(old.function) }
            instructions[staged.name] = Instruction(
                name: staged.name, version: 1, isPublic: staged.isPublic, summary: staged.summary, script: nil,
                generation: generation, function: staged.function)
        }
        hooks += unit.hooks.map { ($0.point, $0.function) }
        var chains: [String: FunctionReference] = [:]
        for case (.event(let name), _) in hooks where chains[name.text] == nil {
            chains[name.text] = chain(.event(name))
        }
        engine.activate(generation: generation, eventChains: chains)
    }

    func chain(_ point: HookPoint) -> FunctionReference {
        engine.makeChain(point, hooks.filter { $0.point == point }.map(\.function))!
    }

    func nextCall() -> CallID {
        lastCall += 1
        return CallID(rawValue: lastCall)
    }

    @discardableResult
    func call(
        _ name: String, _ parameters: String? = nil, connection: UInt64 = 1, id: CallID? = nil, wantsResult: Bool = true
    ) -> Ending {
        let instruction = instructions[name]!
        let id = id ?? nextCall()
        let connection = ConnectionID(rawValue: connection)
        guard var parameters else {
            return Ending(
                engine.call(
                    instruction.function, name: .instruction(instruction),
                    arguments: .instruction(connection: connection, parameters: nil), id: id, wantsResult: wantsResult))
        }
        return parameters.withUTF8 { bytes in
            Ending(
                engine.call(
                    instruction.function, name: .instruction(instruction),
                    arguments: .instruction(connection: connection, parameters: UnsafeRawBufferPointer(bytes)), id: id,
                    wantsResult: wantsResult))
        }
    }

    @discardableResult
    func call(_ function: FunctionReference, _ arguments: CallArguments, wantsResult: Bool = true) -> Ending {
        Ending(
            engine.call(function, name: .fixed("hook"), arguments: arguments, id: nextCall(), wantsResult: wantsResult))
    }

    @discardableResult
    func eval(_ body: String, id: CallID? = nil) -> Ending {
        Ending(engine.evaluate(body: body, connection: ConnectionID(rawValue: 1), id: id ?? nextCall()))
    }

    /// Lets a timer come due; the host forgets it first where it does not repeat.
    func fire(_ timer: UInt64) {
        if host.timers[timer]?.repeats == false { host.timers[timer] = nil }
        engine.timerFired(ScriptTimerID(rawValue: timer))
    }

    /// Lets all timers come due once, in the order in which they were made.
    func fireAll() {
        for timer in host.timers.keys.sorted() { fire(timer) }
    }
}

/// The failure that `body` throws.
func failure(_ body: () throws -> Void) throws -> ScriptFailure {
    do {
        try body()
    } catch let failure as ScriptFailure {
        return failure
    }
    Issue.record("nothing was thrown")
    throw CancellationError()
}
