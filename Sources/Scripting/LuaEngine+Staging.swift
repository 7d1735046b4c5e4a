import CLuaShims
package import Relay

extension LuaEngine {
    package func stage(script name: String, source: UnsafeRawBufferPointer) throws(ScriptFailure) -> StagedUnit {
        try stage(.script, name: name, source: rl_bytes(source), isPublic: false, instruction: nil)
    }

    package func stage(instruction name: String, body: String, isPublic: Bool) throws(ScriptFailure) -> StagedUnit {
        try withBytes(of: body) { source throws(ScriptFailure) in
            try stage(.instruction, name: name, source: source, isPublic: isPublic, instruction: name)
        }
    }

    package func stage(module name: String, source: String) throws(ScriptFailure) -> StagedUnit {
        try withBytes(of: source) { source throws(ScriptFailure) in
            try stage(.module, name: name, source: source, isPublic: false, instruction: nil)
        }
    }

    package func runReload(of unit: StagedUnit, previousGeneration: Int) throws(ScriptFailure) {
        let ended = rl_unit_reload(engine, unit.id, Int64(previousGeneration))
        guard ended.pointee.status == .returned else {
            throw failure(ended, name: .staged(file: nil, instruction: "reload"))
        }
    }

    package func commit(_ unit: StagedUnit) {
        rl_unit_commit(engine, unit.id)
    }

    package func discard(_ unit: StagedUnit) {
        rl_unit_discard(engine, unit.id)
    }

    private func stage(
        _ kind: rl_unit_kind, name: String, source: rl_bytes, isPublic: Bool, instruction: String?
    ) throws(ScriptFailure) -> StagedUnit {
        var id: Int32 = 0
        let ended = withBytes(of: name) { rl_stage(engine, kind, $0, source, isPublic, &id) }
        guard ended.pointee.status == .returned else {
            throw failure(ended, name: .staged(file: name, instruction: instruction))
        }
        var unit = StagedUnit(id: id, instructions: [], hooks: [])
        var registration = rl_registration()
        var index = 0
        while rl_unit_registration(engine, id, index, &registration) {
            index += 1
            let function = FunctionReference(rawValue: registration.function)
            let name = registration.name.string
            if registration.is_hook {
                unit.hooks.append(StagedUnit.Hook(point: HookPoint(name: name), function: function))
            } else {
                unit.instructions.append(
                    StagedUnit.Instruction(
                        name: name, isPublic: registration.is_public, summary: registration.summary.string,
                        function: function))
            }
        }
        return unit
    }
}
