extension Benchmark {
    /// Every benchmark, in the order of the report. `tunnel` is scripts/tunnel.lua.
    package static func all(
        tunnel: ScriptFile, makeEngine: (any EngineHost, ScriptBudgets) throws(ScriptFailure) -> any InstructionEngine
    ) throws -> [Benchmark] {
        Frames.benchmarks + (try Channels().benchmarks)
            + (try Scripts(tunnel: tunnel, makeEngine: makeEngine).benchmarks)
    }
}
