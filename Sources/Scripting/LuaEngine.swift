import CLuaShims
package import Relay

/// One app's Lua state behind Relay's `InstructionEngine` protocol.
///
/// This target holds no Lua: it turns Relay's values into what `CLuaShims` takes and back. Every Lua call that can
/// raise is made in C, inside a coroutine or under lua_pcall, so that a longjmp never crosses a Swift frame. C comes
/// back into Swift through `rl_host` (`LuaEngine+Host.swift`), whose functions answer by value.
///
/// An engine belongs to the thread that uses it, its app's home loop. It does not keep its host alive.
package final class LuaEngine: InstructionEngine {
    unowned let host: any EngineHost
    let engine: OpaquePointer
    /// What calls that sleep are called in errors. A call that ends at once never comes here.
    private var sleepers: [CallID: CallName] = [:]
    private var generation = 0

    package var budgets: ScriptBudgets {
        didSet {
            var lowered = budgets.lowered
            rl_engine_set_budgets(engine, &lowered)
        }
    }

    package var memoryBytes: Int { rl_engine_memory_bytes(engine) }

    /// Opens a state with the libraries of DESIGN §8. Throws where `budgets.memoryBytes` does not hold them.
    package init(host: any EngineHost, budgets: ScriptBudgets) throws(ScriptFailure) {
        var functions = LuaEngine.hostFunctions
        var lowered = budgets.lowered
        guard let engine = rl_engine_create(&functions, &lowered) else {
            throw ScriptFailure(
                code: .memoryExceeded,
                message: "a Lua state with its libraries needs more than \(budgets.memoryBytes) bytes (scriptMemory)")
        }
        self.host = host
        self.budgets = budgets
        self.engine = engine
        // SAFETY: the C engine calls the host functions only inside of calls that this object makes, so it is alive.
        rl_engine_set_context(engine, Unmanaged.passUnretained(self).toOpaque())
    }

    deinit {
        rl_engine_destroy(engine)
    }

    // MARK: Calls

    package func call(
        _ function: FunctionReference, name: StaticOrInstructionName, arguments: CallArguments, id: CallID,
        wantsResult: Bool
    ) -> CallOutcome {
        var request = rl_request()
        request.function = function.rawValue
        request.call = id.rawValue
        request.wants_result = wantsResult
        switch arguments {
        case .instruction(let connection, let parameters):
            request.kind = .instruction
            request.connection = connection.rawValue
            if let parameters { request.bytes = rl_bytes(parameters) }
            return finish(rl_call(engine, &request), name: .given(name))
        case .handshake(let connection):
            request.kind = .handshake
            request.connection = connection.rawValue
        case .open(let connection):
            request.kind = .open
            request.connection = connection.rawValue
        case .message(let connection, let bytes, let isText):
            request.kind = .message
            request.connection = connection.rawValue
            request.bytes = rl_bytes(bytes)
            request.number = isText ? 1 : 0
        case .connect(let connection, let server, let port):
            request.kind = .connect
            request.connection = connection.rawValue
            request.number = Int64(port)
            return rl_server.with(server) { server in
                request.server = server
                return finish(rl_call(engine, &request), name: .given(name))
            }
        case .request(let connection, let serial, let method, let body):
            request.kind = .request
            request.connection = connection.rawValue
            request.number = Int64(bitPattern: serial.rawValue)
            request.bytes = rl_bytes(body)
            return withBytes(of: method) { method in
                request.method = method
                return finish(rl_call(engine, &request), name: .given(name))
            }
        case .close(let connection, let code, let reason):
            request.kind = .close
            request.connection = connection.rawValue
            request.number = Int64(code)
            return withBytes(of: reason) { bytes in
                request.bytes = bytes
                return finish(rl_call(engine, &request), name: .given(name))
            }
        case .reload(let previousGeneration):
            request.kind = .reload
            request.number = Int64(previousGeneration)
        case .event(let json):
            request.kind = .event
            return withBytes(of: json) { bytes in
                request.bytes = bytes
                return finish(rl_call(engine, &request), name: .given(name))
            }
        }
        return finish(rl_call(engine, &request), name: .given(name))
    }

    package func evaluate(body: String, connection: ConnectionID, id: CallID) -> CallOutcome {
        withBytes(of: body) { bytes in
            var request = rl_request()
            request.kind = .evaluate
            request.connection = connection.rawValue
            request.call = id.rawValue
            request.bytes = bytes
            request.wants_result = true
            return finish(rl_call(engine, &request), name: .eval)
        }
    }

    package func timerFired(_ timer: ScriptTimerID) {
        if let ended = rl_timer_fired(engine, timer.rawValue) { woke(ended) }
    }

    package func answered(_ request: ScriptRequestID, _ result: OutboundResult) {
        var answer = rl_http_answer()
        switch result {
        case .success(let response):
            let headers: [UInt8] = response.headers.flatMap { Array($0.name.utf8) + [0] + Array($0.value.utf8) + [0] }
            answer.status = Int32(truncatingIfNeeded: response.status)
            headers.withUnsafeBytes { headers in
                response.body.withUnsafeBytes { body in
                    answer.headers = rl_bytes(headers)
                    answer.body = rl_bytes(body)
                    if let ended = rl_answered(engine, request.rawValue, &answer) { woke(ended) }
                }
            }
        case .failure(let failure):
            answer.status = Int32(truncatingIfNeeded: failure.status ?? 0)
            withBytes(of: failure.code.rawValue) { code in
                withBytes(of: failure.message) { message in
                    answer.code = code
                    answer.message = message
                    if let ended = rl_answered(engine, request.rawValue, &answer) { woke(ended) }
                }
            }
        }
    }

    package func configurationChanged() { rl_configuration_changed(engine) }

    /// A call that had slept has ended.
    private func woke(_ ended: UnsafePointer<rl_outcome>) {
        let id = CallID(rawValue: ended.pointee.call)
        // Only calls of `call` and `evaluate` come back from here, and those are remembered as they fall asleep.
        let name = sleepers.removeValue(forKey: id) ?? .eval
        host.callFinished(id, outcome(ended, name: name))
    }

    package func forget(_ connection: ConnectionID) {
        rl_forget(engine, connection.rawValue)
    }

    private func finish(_ ended: UnsafePointer<rl_outcome>, name: CallName) -> CallOutcome {
        if ended.pointee.status == .suspended {
            sleepers[CallID(rawValue: ended.pointee.call)] = name
        }
        return outcome(ended, name: name)
    }

    private func outcome(_ ended: UnsafePointer<rl_outcome>, name: CallName) -> CallOutcome {
        switch ended.pointee.status {
        case .returned:
            .returned(json: ended.pointee.text.buffer, line: ended.pointee.line_text.buffer)
        case .refused:
            .refused(status: Int(ended.pointee.refusal), reason: ended.pointee.text.string)
        case .suspended:
            .suspended
        case .failed:
            .failed(failure(ended, name: name))
        case .connect_undecided:
            .connect(.undecided)
        case .connect_allowed:
            .connect(
                .allowed(
                    server: ended.pointee.has_server ? ServerID(ended.pointee.server) : nil,
                    port: UInt16(exactly: ended.pointee.port),
                    metadata: ended.pointee.text.buffer.map { String(decoding: $0, as: UTF8.self) }))
        case .responded:
            .response(
                status: Int(ended.pointee.refusal), fields: ended.pointee.line_text.raw, body: ended.pointee.text.raw)
        case .connect_refused:
            .connect(.refused(status: Int(ended.pointee.refusal), reason: ended.pointee.text.string))
        }
    }

    /// The failure that C describes, with what only this side knows.
    func failure(_ ended: UnsafePointer<rl_outcome>, name: CallName) -> ScriptFailure {
        let raw = ended.pointee
        var failure = ScriptFailure(code: ErrorCode(raw.code), message: raw.text.string)
        if raw.file.start != nil {
            failure.file = raw.file.string
            failure.line = Int(raw.line)
        }
        failure.traceback = raw.traceback.start == nil ? nil : raw.traceback.string
        switch name {
        case .given(.instruction(let instruction)):
            failure.instruction = instruction.name
            failure.generation = instruction.generation
        case .given(.fixed(let name)):
            failure.instruction = "\(name)"
            failure.generation = generation
        case .unattended:
            failure.instruction = raw.hook.start == nil ? "timer" : raw.hook.string
            failure.generation = generation
        case .staged(let file, let instruction):
            failure.instruction = instruction
            failure.file = failure.file ?? file
        case .eval:
            failure.instruction = "eval"
            failure.generation = generation
        }
        return failure
    }

    // MARK: The active set

    package func makeChain(_ point: HookPoint, _ functions: [FunctionReference]) -> FunctionReference? {
        let references = functions.map(\.rawValue)
        let reference = withBytes(of: point.name) { name in
            rl_chain(engine, point.kind, name, references, references.count)
        }
        return reference == 0 ? nil : FunctionReference(rawValue: reference)
    }

    package func activate(generation: Int, eventChains: [String: FunctionReference]) {
        self.generation = generation
        rl_activate(engine, Int64(generation))
        for (name, chain) in eventChains {
            withBytes(of: name) { rl_activate_event(engine, $0, chain.rawValue) }
        }
    }

    package func release(_ function: FunctionReference) {
        rl_release(engine, function.rawValue)
    }
}

/// What errors call a call.
enum CallName {
    case given(StaticOrInstructionName)
    /// A timer's function, or a hook that fails without ending its chain.
    case unattended
    /// A text that loads; `instruction` is nil for a script or a module, whose file says it all.
    case staged(file: String?, instruction: String?)
    case eval
}
