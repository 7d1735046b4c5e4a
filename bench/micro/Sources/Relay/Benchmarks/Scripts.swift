internal import CBarrier

/// What happens to an instruction message between its frame and the frames that it causes.
struct Scripts {
    private let host = SilentHost()
    private let engine: any InstructionEngine
    private let set: InstructionSet
    /// As the benchmark `forward` sends it.
    private let message = Array(
        #"{"instruction":"forward to server","parameters":[0,"\#(String(repeating: "x", count: 64))"]}"#.utf8)

    private static let server = ConnectionID(rawValue: 1)
    private static let client = ConnectionID(rawValue: 2)

    /// Loads the tunnel and opens a channel through it.
    init(
        tunnel: ScriptFile, makeEngine: (any EngineHost, ScriptBudgets) throws(ScriptFailure) -> any InstructionEngine
    ) throws {
        engine = try makeEngine(host, ScriptBudgets())
        let engine = engine
        let unit = try tunnel.source.withUnsafeBytes { bytes in
            try engine.stage(script: tunnel.name, source: bytes)
        }
        try engine.runReload(of: unit, previousGeneration: 0)
        engine.commit(unit)
        engine.activate(generation: 1, eventChains: [:])
        let instructions = unit.instructions.map { staged in
            Instruction(
                name: staged.name, version: 1, isPublic: staged.isPublic, summary: staged.summary, script: tunnel.name,
                generation: 1, function: staged.function)
        }
        set = InstructionSet(
            generation: 1,
            instructions: Dictionary(uniqueKeysWithValues: instructions.map { (VerbatimText($0.name), $0) }),
            scripts: [], versions: [:], modules: [:], chains: [:])
        // What `install server` and `connect to server` leave.
        try evaluate("servers[0], serverChannels[0] = ..., { [0] = true }", Self.server)
        try evaluate("clients[0] = { client = ..., server = 0 }", Self.client)
    }

    private func evaluate(_ body: String, _ connection: ConnectionID) throws {
        let outcome = engine.evaluate(body: body, connection: connection, id: App.nextCallID())
        if case .failed(let failure) = outcome { throw failure }
    }

    var benchmarks: [Benchmark] {
        [
            Benchmark("instruction message: parse, look up", iterations: 80_000) { [self] count in
                message.withUnsafeBytes { bytes in
                    for _ in 0..<count {
                        barrier_memory(UnsafeMutableRawPointer(mutating: bytes.baseAddress))
                        guard let (instruction, parameters) = find(bytes) else {
                            preconditionFailure("no such instruction")
                        }
                        barrier_value(Int64(instruction.function.rawValue))
                        barrier_value(Int64(parameters?.count ?? 0))
                    }
                }
            },
            Benchmark("instruction message: the same, and call Lua", iterations: 8_000) { [self] count in
                let before = host.sentMessages
                message.withUnsafeBytes { bytes in
                    for _ in 0..<count { invoke(bytes) }
                }
                // The message to the server, and the client's `1`.
                precondition(host.sentMessages == before + 2 * count, "a message was not forwarded")
            },
        ]
    }

    /// As `App.dispatch` has it.
    @inline(__always)
    private func find(_ bytes: UnsafeRawBufferPointer) -> (Instruction, UnsafeRawBufferPointer?)? {
        guard case .instruction(let envelope) = Envelope.parse(bytes) else { return nil }
        return envelope.instruction.withDecoded(in: bytes) { name in
            guard case .instruction(let instruction) = set.entry(name) else { return nil }
            return (instruction, envelope.parameters.map { UnsafeRawBufferPointer(rebasing: bytes[$0]) })
        }
    }

    /// As `App.invoke` has it.
    @inline(__always)
    private func invoke(_ bytes: UnsafeRawBufferPointer) {
        guard let (instruction, parameters) = find(bytes) else { preconditionFailure("no such instruction") }
        let outcome = engine.call(
            instruction.function, name: .instruction(instruction),
            arguments: .instruction(connection: Self.client, parameters: parameters), id: App.nextCallID(),
            wantsResult: false)
        guard case .returned = outcome else { preconditionFailure("the instruction failed: \(outcome)") }
    }
}
