import Testing

@testable import Relay

@Suite struct InstructionSetTests {
    private func function(_ number: Int32) -> FunctionReference { FunctionReference(rawValue: number) }

    private func instruction(_ name: String, _ number: Int32, script: String? = nil) -> Instruction {
        Instruction(
            name: name, version: 1, isPublic: true, summary: "", script: script, generation: 1,
            function: function(number))
    }

    private func set(
        _ instructions: [Instruction] = [], scripts: [InstructionSet.Script] = [],
        chains: [HookPoint: FunctionReference] = [:]
    ) -> InstructionSet {
        InstructionSet(
            generation: 1,
            instructions: Dictionary(uniqueKeysWithValues: instructions.map { (VerbatimText($0.name), $0) }),
            scripts: scripts, versions: [:], modules: [:], chains: chains)
    }

    private func entry(_ name: String, in set: InstructionSet) -> InstructionSet.Entry? {
        Array(name.utf8).withUnsafeBytes { set.entry($0) }
    }

    @Test func `the empty set answers to the relay's own instructions and to nothing else`() {
        #expect(InstructionSet.empty.generation == 0)
        #expect(InstructionSet.empty.functions.isEmpty)
        for builtIn in BuiltIn.allCases {
            guard case .builtIn(let found) = entry(builtIn.rawValue, in: .empty) else {
                Issue.record("\(builtIn) is not found")
                continue
            }
            #expect(found == builtIn)
        }
        #expect(entry("greet", in: .empty) == nil)
        #expect(entry("Add instruction", in: .empty) == nil)
        #expect(entry("", in: .empty) == nil)
    }

    @Test func `an instruction is found beside them`() throws {
        let greet = instruction("greet", 7)
        guard case .instruction(let found) = entry("greet", in: set([greet])) else {
            Issue.record("greet is not found")
            return
        }
        #expect(found === greet)
    }

    @Test func `hooks run in the order of their scripts, and reload hooks in none`() {
        let scripts = [
            InstructionSet.Script(
                name: "z.lua",
                hooks: [
                    .init(point: .message, function: function(1)), .init(point: .reload, function: function(2)),
                    .init(point: .message, function: function(3)), .init(point: .event("tick"), function: function(4)),
                ]),
            InstructionSet.Script(
                name: "a.lua",
                hooks: [
                    .init(point: .event("tock"), function: function(5)),
                    .init(point: .message, function: function(6)), .init(point: .event("tick"), function: function(7)),
                ]),
        ]
        let hooks = InstructionSet.hooks(of: scripts)
        #expect(
            hooks == [
                .message: [1, 3, 6].map(function), .event("tick"): [4, 7].map(function),
                .event("tock"): [function(5)],
            ])
        #expect(InstructionSet.hooks(of: []).isEmpty)
    }

    @Test func `it keeps alive what it calls: instructions, hooks of every point, chains`() {
        let script = InstructionSet.Script(
            name: "a.lua",
            hooks: [.init(point: .open, function: function(2)), .init(point: .reload, function: function(3))])
        let set = set(
            [instruction("greet", 1, script: "a.lua")], scripts: [script],
            chains: [.open: function(4), .event("tick"): function(5)])
        #expect(set.functions == Set([1, 2, 3, 4, 5].map(function)))
    }

    @Test func `chains are at hand by their points`() {
        let set = set(chains: [.message: function(1), .event("tick"): function(2), .event("open"): function(3)])
        #expect(set.messageChain == function(1))
        #expect(set.chains[.open] == nil)
        #expect(set.eventChains == ["tick": function(2), "open": function(3)])
        #expect(InstructionSet.empty.messageChain == nil)
    }

    @Test func `the names of the contract are the relay's`() {
        let contract = [
            "add instruction", "remove instruction", "invoke", "eval", "load script", "unload script", "require",
            "modules", "instructions", "servers", "connections", "channels", "links", "apps", "history", "rollback",
            "close connection", "create app", "remove app", "create credential", "revoke credential",
        ]
        for name in contract { #expect(BuiltIn.isReserved(name), "\(name)") }
        #expect(Set(BuiltIn.allCases.map(\.rawValue)).union(BuiltIn.reserved) == Set(contract))
        for name in ["", "Invoke", "invoke ", "forward to server", "initialize"] {
            #expect(!BuiltIn.isReserved(name), "\(name)")
        }
    }
}
