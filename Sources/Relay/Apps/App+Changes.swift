internal import Logging

// A change is a transaction (DESIGN §8): stage → check → reload hooks → swap → retire. Until the swap nothing that
// serves has changed, and whatever fails on the way leaves it so.
extension App {
    /// Hooks that all scripts of an app may have together: some run for every connection.
    private static let maximumHooks = 1_000

    struct LoadResult {
        var generation: Int
        var instructions: [String]
    }

    /// Loads a script, or only tries to (`isDryRun`).
    func load(
        script name: String, source: [UInt8], isDryRun: Bool = false, ifGeneration: Int? = nil
    ) throws(InstructionError) -> LoadResult {
        try check(ifGeneration)
        try checkName(name, "script")
        let key = VerbatimText(name)
        let unit = try staged { () throws(ScriptFailure) in
            try source.withUnsafeBytes { bytes in
                Result { () throws(ScriptFailure) in try engine.stage(script: name, source: bytes) }
            }.get()
        }
        return try finish(unit, isDryRun: isDryRun) { () throws(InstructionError) in
            var next = draft()
            next.instructions = next.instructions.filter { $0.value.script.map { VerbatimText($0) } != key }
            for staged in unit.instructions {
                if let owner = next.instructions[VerbatimText(staged.name)]?.script {
                    throw InstructionError(
                        .conflict, "The instruction '\(staged.name)' belongs to the script '\(owner)' already.")
                }
                try next.define(staged, script: name)
            }
            let script = InstructionSet.Script(name: key, hooks: unit.hooks)
            if let position = next.scripts.firstIndex(where: { $0.name == key }) {
                next.scripts[position] = script
            } else {
                next.scripts.append(script)
            }
            guard next.scripts.reduce(0, { $0 + $1.hooks.count }) <= Self.maximumHooks else {
                throw InstructionError(.limit, "The app would have more than \(Self.maximumHooks) hooks.")
            }
            return next
        }
    }

    /// `add instruction`: defines one, or replaces it wherever it came from.
    func add(instruction name: String, body: String, isPublic: Bool) throws(InstructionError) -> Instruction {
        guard body.utf8.count <= loop.limits.instructionBytes else {
            throw InstructionError(
                .limit, "The body is longer than \(loop.limits.instructionBytes) bytes (limit instructionBytes).")
        }
        try checkInstructionName(name)
        let unit = try staged { () throws(ScriptFailure) in
            try engine.stage(instruction: name, body: body, isPublic: isPublic)
        }
        _ = try finish(unit) { () throws(InstructionError) in
            var next = draft()
            for staged in unit.instructions { try next.define(staged, script: nil) }
            return next
        }
        guard let instruction = set.instructions[VerbatimText(name)] else {
            throw InstructionError(.internal, "The instruction '\(name)' was added and is not there.")
        }
        return instruction
    }

    /// `require`: makes a module known under its name.
    func add(module name: String, source: String) throws(InstructionError) -> Int {
        try checkName(name, "module")
        let unit = try staged { () throws(ScriptFailure) in try engine.stage(module: name, source: source) }
        _ = try finish(unit) { () throws(InstructionError) in
            var next = draft()
            next.modules[VerbatimText(name), default: 0] += 1
            return next
        }
        return set.modules[VerbatimText(name)] ?? 0
    }

    func remove(instruction name: String) throws(InstructionError) -> Int {
        guard set.instructions[VerbatimText(name)] != nil else {
            throw InstructionError(.notFound, "There is no instruction '\(name)' to remove.")
        }
        var next = draft()
        next.instructions[VerbatimText(name)] = nil
        try swap(next)
        return set.generation
    }

    func unload(script name: String) throws(InstructionError) -> Int {
        let key = VerbatimText(name)
        guard set.scripts.contains(where: { $0.name == key }) else {
            throw InstructionError(.notFound, "There is no script '\(name)' to unload.")
        }
        var next = draft()
        next.scripts.removeAll { $0.name == key }
        next.instructions = next.instructions.filter { $0.value.script.map { VerbatimText($0) } != key }
        try swap(next)
        return set.generation
    }

    // MARK: Steps

    /// The next set while it is being put together.
    struct Draft {
        var generation: Int
        var instructions: [VerbatimText: Instruction]
        var scripts: [InstructionSet.Script]
        var versions: [VerbatimText: Int]
        var modules: [VerbatimText: Int]
        var maximumInstructions: Int

        mutating func define(_ staged: StagedUnit.Instruction, script: String?) throws(InstructionError) {
            let name = VerbatimText(staged.name)
            let version = versions[name, default: 0] + 1
            versions[name] = version
            instructions[name] = Instruction(
                name: staged.name, version: version, isPublic: staged.isPublic, summary: staged.summary,
                script: script, generation: generation, function: staged.function)
            guard instructions.count <= maximumInstructions else {
                throw InstructionError(
                    .limit, "The app would have more than \(maximumInstructions) instructions (limit instructions).")
            }
        }
    }

    private func draft() -> Draft {
        Draft(
            generation: set.generation + 1, instructions: set.instructions, scripts: set.scripts,
            versions: set.versions, modules: set.modules, maximumInstructions: loop.limits.instructions)
    }

    private func staged(
        _ body: () throws(ScriptFailure) -> StagedUnit
    ) throws(InstructionError) -> StagedUnit {
        do {
            return try body()
        } catch {
            log(error, nil)
            throw InstructionError(error)
        }
    }

    /// Checks a staged unit, runs its reload hooks, and swaps the set that it leads to in; or discards it.
    private func finish(
        _ unit: StagedUnit, isDryRun: Bool = false, _ makeDraft: () throws(InstructionError) -> Draft
    ) throws(InstructionError) -> LoadResult {
        let names = unit.instructions.map(\.name)
        do throws(InstructionError) {
            for name in names { try checkInstructionName(name) }
            let next = try makeDraft()
            if isDryRun {
                engine.discard(unit)
                return LoadResult(generation: set.generation, instructions: names)
            }
            if unit.hooks.contains(where: { $0.point == .reload }) {
                do { try engine.runReload(of: unit, previousGeneration: set.generation) } catch {
                    log(error, nil)
                    throw InstructionError(error)
                }
            }
            try swap(next, committing: unit)
            return LoadResult(generation: set.generation, instructions: names)
        } catch {
            engine.discard(unit)
            throw error
        }
    }

    /// The one place where what serves changes.
    private func swap(_ draft: Draft, committing unit: StagedUnit? = nil) throws(InstructionError) {
        var chains: [HookPoint: FunctionReference] = [:]
        for (point, functions) in InstructionSet.hooks(of: draft.scripts) {
            guard let chain = engine.makeChain(point, functions) else {
                for chain in chains.values { engine.release(chain) }
                throw InstructionError(.memoryExceeded, "There is no memory left for the hooks of this change.")
            }
            chains[point] = chain
        }
        if let unit { engine.commit(unit) }
        let retired = set.functions
        set = InstructionSet(
            generation: draft.generation, instructions: draft.instructions, scripts: draft.scripts,
            versions: draft.versions, modules: draft.modules, chains: chains)
        engine.activate(generation: set.generation, eventChains: set.eventChains)
        // Calls in flight hold the functions that they run; nobody else needs those that only the old set had. Reload
        // hooks have done their work.
        for function in retired.subtracting(set.functions) { engine.release(function) }
        shared.logger.info(
            "generation \(set.generation)",
            metadata: [
                "app": "\(name)", "instructions": "\(set.instructions.count)", "scripts": "\(set.scripts.count)",
            ])
    }

    // MARK: Checks

    private func check(_ ifGeneration: Int?) throws(InstructionError) {
        guard let ifGeneration, ifGeneration != set.generation else { return }
        throw InstructionError(
            .conflict, "The app is at generation \(set.generation), not \(ifGeneration): look at what changed first.")
    }

    private func checkInstructionName(_ name: String) throws(InstructionError) {
        guard !BuiltIn.isReserved(name) else {
            throw InstructionError(.conflict, "'\(name)' is one of the relay's own instructions.")
        }
        try checkName(name, "instruction")
    }

    private func checkName(_ name: String, _ kind: String) throws(InstructionError) {
        let isClean = name.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }
        guard !name.isEmpty, name.utf8.count <= 128, isClean else {
            throw InstructionError(
                .badParameters,
                "The name of \(kind == "instruction" ? "an" : "a") \(kind) has 1 to 128 bytes "
                    + "and no control characters.")
        }
    }
}
