// The seam between the core and the scripting language. Relay calls `InstructionEngine`; the engine calls `EngineHost`.
// Neither side of this file mentions Lua. Every call in both directions happens on the app's home loop, one at a time,
// and an engine is never re-entered: a host method that a script calls only queues (a send, a close, a timer); what
// follows from it is delivered to the engine by a later call.

/// A function that lives in the engine: an instruction's handler, a hook, or a chain of hooks. Valid until released.
package struct FunctionReference: Hashable, Sendable {
    package let rawValue: Int32
    package init(rawValue: Int32) { self.rawValue = rawValue }
}

/// Names one call for as long as it may yield. Chosen by the relay, never reused while it runs.
package struct CallID: Hashable, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Names one timer of a script. Chosen by the host.
package struct ScriptTimerID: Hashable, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Names one HTTP request of a script. Chosen by the host.
package struct ScriptRequestID: Hashable, Sendable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Where scripts can hook in (DESIGN §8). `event` carries the NAME of `relay.on("event:NAME", f)`.
package enum HookPoint: Hashable, Sendable {
    case handshake, open, message, connect, close, reload, request
    case event(VerbatimText)
}

/// What a call hands to its function. Buffers are lent for the duration of the call only.
package enum CallArguments {
    /// An instruction: `parameters` is the raw JSON text of an array (positional) or an object (one table); nil passes
    /// nothing after the connection.
    case instruction(connection: ConnectionID, parameters: UnsafeRawBufferPointer?)
    /// `relay.on("handshake", function(request) … end)`: the connection has no socket face yet, only facts.
    case handshake(connection: ConnectionID)
    case open(connection: ConnectionID)
    /// One whole message that is no instruction.
    case message(connection: ConnectionID, bytes: UnsafeRawBufferPointer, isText: Bool)
    /// The client's connection asks for a server's port. A clean client has not had its 101 yet: `send` answers
    /// "dropped".
    case connect(connection: ConnectionID, server: ServerID, port: UInt16)
    /// A whole HTTP request on the connection, which has nothing but facts for it. `serial` is for `EngineHost.may`.
    case request(connection: ConnectionID, serial: CallID, method: String, body: UnsafeRawBufferPointer)
    /// The connection is gone: its facts still answer, `send` returns "dropped".
    case close(connection: ConnectionID, code: UInt16, reason: String)
    case reload(previousGeneration: Int)
    /// An event of the relay's own (`server.created`, `server.destroyed`); `json` is its data, a JSON text.
    case event(json: String)
}

/// How a call ended.
package enum CallOutcome {
    /// `json`: the first value that the function returned, as JSON text, lent until the next call of the engine; nil
    /// where the caller did not want it. A value that JSON cannot carry (a function, a connection) is a failure.
    /// An instruction that returns a string and a table gives a line for people and the result: `line` and `json`.
    case returned(json: UnsafeRawBufferPointer?, line: UnsafeRawBufferPointer?)
    /// Only from chains of the handshake point: a hook refused.
    case refused(status: Int, reason: String)
    /// Only from chains of the connect point, which end in nothing else but this, `suspended` or `failed`.
    case connect(ConnectDecision)
    /// Only from chains of the request point, which end in `returned` where no hook has an answer. `fields` are whole
    /// lines of a response's head, checked; `status` is from 200 to 599, and where it allows no body there is none.
    /// Both buffers are lent until the next call of the engine.
    case response(status: Int, fields: UnsafeRawBufferPointer, body: UnsafeRawBufferPointer)
    /// The function yielded; `EngineHost.callFinished` will bring the outcome.
    case suspended
    case failed(ScriptFailure)
}

/// What the hooks of the connect point say about a client and the server that it wants.
package enum ConnectDecision: Sendable, Equatable {
    /// None has an opinion: the credential decides.
    case undecided
    /// Nil keeps the server and the port that the client asked for. `metadata` is the JSON text of a table, at most
    /// 4 KiB, for the server's `open`.
    case allowed(server: ServerID?, port: UInt16?, metadata: String?)
    /// `status` is one of HTTP, from 400 to 599; the reason has no control characters and at most 256 bytes.
    case refused(status: Int, reason: String)
}

/// Why a script did not do what it was asked: a stable code and everything that helps its author.
package struct ScriptFailure: Error, Sendable, Equatable {
    /// One of: compile_error, script_error, budget_exceeded, memory_exceeded, output_exceeded, bad_parameters, timeout.
    package var code: ErrorCode
    /// One sentence, with `file:line:` in front where known.
    package var message: String
    package var instruction: String?
    package var file: String?
    package var line: Int?
    package var generation: Int?
    package var traceback: String?

    package init(
        code: ErrorCode, message: String, instruction: String? = nil, file: String? = nil, line: Int? = nil,
        generation: Int? = nil, traceback: String? = nil
    ) {
        self.code = code
        self.message = message
        self.instruction = instruction
        self.file = file
        self.line = line
        self.generation = generation
        self.traceback = traceback
    }
}

/// One change, compiled and run aside, not yet visible to anyone.
package struct StagedUnit: Sendable {
    package struct Instruction: Sendable {
        package var name: String
        package var isPublic: Bool
        package var summary: String
        package var function: FunctionReference
        package init(name: String, isPublic: Bool, summary: String, function: FunctionReference) {
            self.name = name
            self.isPublic = isPublic
            self.summary = summary
            self.function = function
        }
    }
    package struct Hook: Sendable {
        package var point: HookPoint
        package var function: FunctionReference
        package init(point: HookPoint, function: FunctionReference) {
            self.point = point
            self.function = function
        }
    }
    /// The engine's own name for what it holds aside.
    package var id: Int32
    package var instructions: [Instruction]
    package var hooks: [Hook]
    package init(id: Int32, instructions: [Instruction], hooks: [Hook]) {
        self.id = id
        self.instructions = instructions
        self.hooks = hooks
    }
}

/// The budgets of one app (DESIGN §11); they can change while scripts run and hold from the next call on.
package struct ScriptBudgets: Sendable, Equatable {
    /// Time without yielding.
    package var burst: Duration = .milliseconds(10)
    /// Time from a call's first instruction to its end, suspended time included.
    package var callTime: Duration = .seconds(30)
    /// Bytes that the app's state may hold.
    package var memoryBytes: Int = 64 << 20
    /// Bytes that one call may send.
    package var outputBytesPerCall: Int = 16 << 20
    /// Time in which a script file, an instruction body or a module must have run once.
    package var loadTime: Duration = .milliseconds(250)
    package init() {}
}

/// One app's scripts, whatever language they are in.
package protocol InstructionEngine: AnyObject {
    /// Compiles `source` and runs it once, aside: its globals and registrations are held back until `commit`.
    /// A failure leaves no trace. `name` is the script's name and the `file` of its errors.
    func stage(script name: String, source: UnsafeRawBufferPointer) throws(ScriptFailure) -> StagedUnit
    /// Compiles a function expression, the body of `add instruction`; the unit has that one instruction and no hook.
    func stage(instruction name: String, body: String, isPublic: Bool) throws(ScriptFailure) -> StagedUnit
    /// Compiles and runs a module once, aside; after `commit`, `require "name"` answers what it returned.
    func stage(module name: String, source: String) throws(ScriptFailure) -> StagedUnit
    /// Runs the unit's `reload` hooks, still aside.
    func runReload(of unit: StagedUnit, previousGeneration: Int) throws(ScriptFailure)
    /// Makes the unit's globals visible. Cannot fail.
    func commit(_ unit: StagedUnit)
    /// Forgets the unit and releases its functions.
    func discard(_ unit: StagedUnit)

    /// One function that runs `functions` in order and stops as its point says: `message` at the first that returns
    /// true, `handshake` at the first that refuses, `connect` and `request` at the first that has an opinion; the
    /// others run them all. Nil where memory is out.
    func makeChain(_ point: HookPoint, _ functions: [FunctionReference]) -> FunctionReference?
    /// The set that reports and `relay.emit` look at from now on: its number and its chains for events.
    func activate(generation: Int, eventChains: [String: FunctionReference])
    /// A function that no generation needs any more. Calls in flight finish on it all the same.
    func release(_ function: FunctionReference)

    /// Calls a function in a coroutine of its own. `name` is what errors and logs call it.
    func call(
        _ function: FunctionReference, name: StaticOrInstructionName, arguments: CallArguments, id: CallID,
        wantsResult: Bool
    ) -> CallOutcome
    /// Runs a chunk in the app's state (`eval`).
    func evaluate(body: String, connection: ConnectionID, id: CallID) -> CallOutcome

    /// A timer that `EngineHost.schedule` made has come due.
    func timerFired(_ timer: ScriptTimerID)
    /// A request that `EngineHost.request` began has been answered.
    func answered(_ request: ScriptRequestID, _ result: OutboundResult)
    /// What `EngineHost.configJSON` answers has changed.
    func configurationChanged()
    /// The connection is gone and its close hooks have run: drop the engine's handle for it. Scripts that kept it see
    /// a closed connection.
    func forget(_ connection: ConnectionID)

    var budgets: ScriptBudgets { get set }
    /// Bytes that the state holds now.
    var memoryBytes: Int { get }
}

/// What a call is named in errors and logs, without building a String per call.
package enum StaticOrInstructionName {
    case fixed(StaticString)
    case instruction(Instruction)
}

/// What `send` answers a script.
package enum ScriptSendResult: Int32, Sendable {
    case queued = 0
    /// Queued, and the receiver is above its high watermark: the caller should hold back.
    case backpressure = 1
    /// Not queued: the connection is closed, or its queue is full.
    case dropped = 2
}

/// What becomes of a channel that a script asks for.
package enum ConnectResult: Sendable, Equatable {
    /// Its number on a multiplexed connection; nil where the connection becomes a clean end.
    case channel(UInt32?)
    case refused(ErrorCode)
}

/// What becomes of a channel that a script dials.
package enum DialResult: Sendable, Equatable {
    case channel(ConnectionID)
    case refused(ErrorCode)
}

/// What a script wants to hear of a channel that it dials. The host releases them when the channel is over.
package struct DialCallbacks: Sendable {
    package var open: FunctionReference?
    package var message: FunctionReference?
    package var close: FunctionReference?
    package init(open: FunctionReference?, message: FunctionReference?, close: FunctionReference?) {
        self.open = open
        self.message = message
        self.close = close
    }
}

/// Facts of a connection, as scripts read them.
package struct ConnectionFacts {
    package var id: ConnectionID
    package var app: String
    package var remoteAddress: String
    package var remotePort: Int
    /// The request target's path, without the query.
    package var path: String
    /// The raw query string, without `?`; empty where there is none.
    package var query: String
    /// Lower-cased names; a name that came several times is joined with ", ".
    package var headers: [(name: String, value: String)]
    /// The listener's port.
    package var port: Int
    package var isAdmin: Bool
    package var subprotocol: String?
    /// Nil on a plain connection, else the protocol version ("TLSv1.3").
    package var tls: String?
    package init(
        id: ConnectionID, app: String, remoteAddress: String, remotePort: Int, path: String, query: String,
        headers: [(name: String, value: String)], port: Int, isAdmin: Bool, subprotocol: String?, tls: String?
    ) {
        self.id = id
        self.app = app
        self.remoteAddress = remoteAddress
        self.remotePort = remotePort
        self.path = path
        self.query = query
        self.headers = headers
        self.port = port
        self.isAdmin = isAdmin
        self.subprotocol = subprotocol
        self.tls = tls
    }
}

/// What the relay does for scripts. Implemented by `App`; every method returns at once and reports failure by value.
package protocol EngineHost: AnyObject {
    /// Queues one message. `bytes` of a text message are valid UTF-8: the engine has checked.
    func send(_ bytes: UnsafeRawBufferPointer, isText: Bool, to connection: ConnectionID) -> ScriptSendResult
    /// Queues a close frame; false where the connection is already closed. `code` is one a server may send.
    func close(_ connection: ConnectionID, code: UInt16, reason: String) -> Bool
    func isOpen(_ connection: ConnectionID) -> Bool
    func facts(of connection: ConnectionID) -> ConnectionFacts?

    /// Whether what was presented with a request allows `right` (`admin`, `listen:SERVER`, `connect:SERVER:PORT` or
    /// `invoke:NAME`); false once it is answered, nil where that is no right.
    func may(_ connection: ConnectionID, _ serial: CallID, _ right: String) -> Bool?

    /// Installs the connection under the server id; nil when done, else why not (`conflict`, `not_found`, `limit`).
    func install(server: ServerID, connection: ConnectionID, options: ServerOptions) -> ErrorCode?
    func uninstall(server: ServerID) -> Bool
    func server(_ server: ServerID) -> ConnectionID?
    /// Forwards whatever either connection sends to the other, from its next message on, for good; nil when done, else
    /// why not (`bad_parameters` for one with itself, `not_found`, `conflict` where one is in a pipe).
    func pipe(_ one: ConnectionID, _ other: ConnectionID) -> ErrorCode?

    /// Opens a channel between the connection and a server's port; `metadata` is the JSON text of a table, at most
    /// 4 KiB, for the server's `open`. Numbers of channels begin at 1.
    func connect(_ connection: ConnectionID, server: ServerID, port: UInt16, metadata: String?) -> ConnectResult

    /// Reads the connection no further, or reads it again; false where it is not open.
    func hold(_ connection: ConnectionID, _ isHeld: Bool) -> Bool
    /// From now on all its messages are for the `message` hooks, instructions or not; false where it is not open.
    func takeMessages(of connection: ConnectionID) -> Bool

    /// Begins an HTTP request, whose answer `InstructionEngine.answered` brings.
    func request(_ request: OutboundRequest) -> Result<ScriptRequestID, OutboundFailure>

    /// Opens a channel to a server's port whose client is the script. The id is a connection's to `send`, `close` and
    /// `isOpen`, and the first argument of the callbacks, which are called as hooks of their names are, one at a time.
    /// Where it is refused the callbacks stay the engine's.
    func dial(server: ServerID, port: UInt16, callbacks: DialCallbacks, metadata: String?) -> DialResult

    /// Calls `timerFired` after `delay`, then again every `delay` where `repeats`. Nil where the app has too many.
    func schedule(after delay: Duration, repeats: Bool) -> ScriptTimerID?
    func cancel(_ timer: ScriptTimerID)

    /// A call that was suspended has ended; lent bytes are lent for this call.
    func callFinished(_ id: CallID, _ outcome: CallOutcome)
    /// A function that no caller waits for (a timer's, an event's) has failed.
    func unattendedFailure(_ failure: ScriptFailure)

    func log(level: ScriptLogLevel, message: String, fields: [(name: String, value: String)])
    /// Seconds since 1970, and seconds of a clock that never steps.
    func wallClockSeconds() -> Double
    func monotonicSeconds() -> Double
    func randomBytes(_ count: Int) -> [UInt8]
    func sha256(_ bytes: UnsafeRawBufferPointer) -> [UInt8]
    func hmacSHA256(key: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer) -> [UInt8]
    func constantTimeEqual(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool
    /// `relay.config`: a JSON object of what the operator lets scripts see.
    var configJSON: String { get }
}

package enum ScriptLogLevel: Int32, Sendable {
    case debug = 0, info, warning, error
}
