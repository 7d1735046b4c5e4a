internal import Logging
internal import Synchronization

/// Whom a call answers when it ends.
enum PendingCall {
    /// A hook's, which a message or the arrival of a connection caused, or nobody: failures are logged.
    case hook(ConnectionID?)
    /// The handshake waits.
    case handshake(ConnectionID)
    /// A request waits for its answer.
    case request(ConnectionID, CallID)
    /// A callback of a channel that a script has dialled.
    case channel(ConnectionID)
    /// A client waits for its channel.
    case connect(ChannelRequest)
    /// An instruction; `id` is the request's, as JSON text, where there is one.
    case instruction(ConnectionID, name: String, id: [UInt8]?)

    /// The connection that has to answer for the call.
    var connection: ConnectionID? {
        switch self {
        case .hook(let connection): connection
        case .handshake(let connection), .instruction(let connection, _, _), .request(let connection, _): connection
        case .connect(let request): request.client
        case .channel: nil
        }
    }
}

// Into the engine and back: calls, what becomes of their outcomes, and replies.
extension App {
    private static let lastCall = Atomic<UInt64>(0)

    static func nextCallID() -> CallID {
        CallID(rawValue: lastCall.wrappingAdd(1, ordering: .relaxed).newValue)
    }

    /// Invokes an instruction for a connection.
    func invoke(
        _ instruction: Instruction, _ parameters: UnsafeRawBufferPointer?, _ connection: Member,
        _ id: UnsafeRawBufferPointer?
    ) {
        let call = Self.nextCallID()
        let outcome = inEngine {
            engine.call(
                instruction.function, name: .instruction(instruction),
                arguments: .instruction(connection: connection.id, parameters: parameters), id: call,
                wantsResult: id != nil || connection.isLivecode)
        }
        conclude(call, instruction.name, outcome, connection, id)
    }

    /// Calls a hook chain.
    func call(
        _ function: FunctionReference, _ name: StaticOrInstructionName, _ arguments: CallArguments,
        _ waiting: PendingCall
    ) {
        let call = Self.nextCallID()
        let outcome = inEngine {
            engine.call(function, name: name, arguments: arguments, id: call, wantsResult: false)
        }
        if case .suspended = outcome { suspend(call, waiting) } else { finish(waiting, outcome) }
        settle()
    }

    /// Runs a chunk for `eval`.
    func evaluate(_ body: String, _ connection: Member, _ id: UnsafeRawBufferPointer?) {
        let call = Self.nextCallID()
        let outcome = inEngine { engine.evaluate(body: body, connection: connection.id, id: call) }
        conclude(call, BuiltIn.eval.rawValue, outcome, connection, id)
    }

    /// Answers a call that a request has made, or remembers whom to answer when it ends.
    private func conclude(
        _ call: CallID, _ name: String, _ outcome: CallOutcome, _ connection: Member, _ id: UnsafeRawBufferPointer?
    ) {
        if case .suspended = outcome {
            suspend(call, .instruction(connection.id, name: name, id: id.map(Array.init)))
        } else {
            answerInstruction(name, outcome, connection, id)
        }
        settle()
    }

    private func suspend(_ call: CallID, _ waiting: PendingCall) {
        pending[call] = waiting
        if let caller = waiting.connection { members[caller]?.callSuspended() }
    }

    private func inEngine(_ body: () -> CallOutcome) -> CallOutcome {
        precondition(!isInEngine, "the engine is entered while it runs")
        isInEngine = true
        defer { isInEngine = false }
        return body()
    }

    // MARK: Outcomes

    func finish(_ waiting: PendingCall, _ outcome: CallOutcome) {
        switch waiting {
        case .hook:
            if case .failed(let failure) = outcome { unattendedFailure(failure) }
        case .channel(let id):
            if case .failed(let failure) = outcome { unattendedFailure(failure) }
            dialled[id]?.callEnded()
        case .handshake(let id):
            guard let connection = members[id]?.here else { return }
            finishHandshake(connection, outcome)
        case .request(let id, let serial):
            if let connection = requester(id, serial) { finishRequest(connection, outcome) }
        case .connect(let request):
            decided(request, outcome)
        case .instruction(let connectionID, let name, let id):
            guard let connection = members[connectionID] else { return }
            guard let id else { return answerInstruction(name, outcome, connection, nil) }
            id.withUnsafeBytes { answerInstruction(name, outcome, connection, $0) }
        }
    }

    private func finishHandshake(_ connection: Connection, _ outcome: CallOutcome) {
        switch outcome {
        case .returned:
            admitted(connection)
        case .refused(let status, let reason):
            connection.refuse(HTTPStatus(code: status), reason)
        case .failed(let failure):
            unattendedFailure(failure)
            connection.refuse(.internalServerError, "A script that decides about connections failed.")
        case .connect, .response, .suspended:
            preconditionFailure("a handshake's call ended as another's")
        }
    }

    private func answerInstruction(
        _ name: String, _ outcome: CallOutcome, _ connection: Member, _ id: UnsafeRawBufferPointer?
    ) {
        switch outcome {
        case .returned(let json, let line):
            livecode(connection) {
                Livecode.returned(line.map { String(decoding: $0, as: UTF8.self) } ?? Livecode.plain(json))
            }
            guard let id else { return }
            if let json { return answer(connection, id: id, .success(json)) }
            Array("null".utf8).withUnsafeBytes { answer(connection, id: id, .success($0)) }
        case .failed(let failure):
            log(failure, connection.id)
            livecode(connection) { Livecode.returned(failure.message) }
            if let id { answer(connection, id: id, .failure(InstructionError(failure))) }
        case .refused, .connect, .response, .suspended:
            preconditionFailure("an instruction's call ended as another's")
        }
    }

    func log(_ failure: ScriptFailure, _ connection: ConnectionID?) {
        var metadata: Logger.Metadata = [
            "app": "\(name)", "code": "\(failure.code.rawValue)", "reason": "\(failure.message)",
            "generation": "\(failure.generation ?? set.generation)",
        ]
        if let instruction = failure.instruction { metadata["instruction"] = "\(instruction)" }
        if let connection { metadata["connection"] = "\(connection)" }
        if let traceback = failure.traceback { metadata["traceback"] = "\(traceback)" }
        shared.logger.warning("script failed", metadata: metadata)
    }

    // MARK: Replies

    /// Sends `{"id": ID, "result": …}` or `{"id": ID, "error": …}`; `id` and the result are JSON texts already. Without
    /// an id (which request it was cannot be told) it is null, as JSON-RPC 2.0 §5 has it.
    func answer(
        _ connection: Member, id: UnsafeRawBufferPointer?,
        _ result: Result<UnsafeRawBufferPointer, InstructionError>
    ) {
        let limits = loop.limits
        // Answers of calls that were suspended come when they come: their receiver may have stopped reading.
        guard connection.queuedBytes <= limits.outboundHighBytes + limits.outputBytesPerCall else {
            return connection.close(.slowConsumer, reason: "answers were not read")
        }
        scratch.removeAll(keepingCapacity: true)
        scratch.append(contentsOf: #"{"id":"#.utf8)
        if let id { scratch.append(contentsOf: id) } else { scratch.append(contentsOf: "null".utf8) }
        switch result {
        case .success(let json):
            scratch.append(contentsOf: #","result":"#.utf8)
            scratch.append(contentsOf: json)
        case .failure(let error):
            scratch.append(contentsOf: #","error":"#.utf8)
            error.append(to: &scratch)
        }
        scratch.append(UInt8(ascii: "}"))
        scratch.withUnsafeBytes { _ = connection.sendMessage($0, isText: true) }
        // A long answer's memory is not kept for the short ones that follow.
        if scratch.capacity > 256 << 10 { scratch = [] }
    }
}
