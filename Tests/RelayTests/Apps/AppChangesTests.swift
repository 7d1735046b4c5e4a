import Testing

@testable import Relay

/// A change is a transaction: whatever fails, the set that served goes on serving and nothing of the change is left.
@Suite struct `Changes of an app` {
    /// What can be seen of a set from outside.
    private struct Served: Equatable {
        var generation: Int
        var instructions: [VerbatimText: ObjectIdentifier]
        var scripts: [VerbatimText]
        var versions: [VerbatimText: Int]
        var modules: [VerbatimText: Int]
        var functions: Set<FunctionReference>

        init(_ set: InstructionSet) {
            generation = set.generation
            instructions = set.instructions.mapValues(ObjectIdentifier.init)
            scripts = set.scripts.map(\.name)
            versions = set.versions
            modules = set.modules
            functions = set.functions
        }
    }

    /// A fixture at generation 3: two scripts with hooks, and one instruction beside them.
    private func serving(limits: Limits = Limits()) throws -> AppFixture {
        let fixture = try AppFixture(limits: limits)
        try fixture.load("a.lua", ["greet", "part"], hooks: [.message, .reload, .event("tick")])
        try fixture.load("b.lua", ["count"], hooks: [.message, .close])
        _ = try fixture.app.add(instruction: "loose", body: "function() end", isPublic: false)
        fixture.engine.clear()
        return fixture
    }

    /// The engine holds what the set needs, and nothing else.
    private func expectBalance(_ fixture: AppFixture, sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(fixture.engine.held == fixture.app.set.functions, sourceLocation: sourceLocation)
        #expect(fixture.engine.wronglyReleased == [], sourceLocation: sourceLocation)
    }

    /// Runs a change that has to fail with `code`, and leave everything as it was.
    private func expectRefused(
        _ code: ErrorCode, _ fixture: AppFixture, discards: Bool, sourceLocation: SourceLocation = #_sourceLocation,
        _ change: (AppFixture) throws(InstructionError) -> Void
    ) {
        let before = Served(fixture.app.set)
        do throws(InstructionError) {
            try change(fixture)
            Issue.record("the change was accepted", sourceLocation: sourceLocation)
        } catch {
            #expect(error.code == code, sourceLocation: sourceLocation)
            #expect(!error.message.isEmpty, sourceLocation: sourceLocation)
        }
        #expect(Served(fixture.app.set) == before, sourceLocation: sourceLocation)
        let actions = fixture.engine.actions
        #expect(
            actions.contains { if case .discard = $0 { true } else { false } } == discards,
            sourceLocation: sourceLocation)
        #expect(
            !actions.contains {
                switch $0 {
                case .commit, .activate: true
                default: false
                }
            }, sourceLocation: sourceLocation)
        expectBalance(fixture, sourceLocation: sourceLocation)
    }

    // MARK: Failure

    @Test func `a script that does not stage changes nothing`() throws {
        let fixture = try serving()
        fixture.engine.stageFailure = ScriptFailure(code: .compileError, message: "a.lua:1: unexpected symbol")
        expectRefused(.compileError, fixture, discards: false) { fixture throws(InstructionError) in
            try fixture.load("a.lua", ["greet"])
        }
        expectRefused(.compileError, fixture, discards: false) { fixture throws(InstructionError) in
            _ = try fixture.app.add(instruction: "greet", body: "function(", isPublic: true)
        }
        expectRefused(.compileError, fixture, discards: false) { fixture throws(InstructionError) in
            _ = try fixture.app.add(module: "tables", source: "return {")
        }
    }

    @Test(arguments: [
        ("add instruction", ErrorCode.conflict), ("invoke", .conflict), ("rollback", .conflict), ("", .badParameters),
        ("a\u{0}b", .badParameters), ("line\nbreak", .badParameters), ("\u{7F}", .badParameters),
        (String(repeating: "é", count: 65), .badParameters),
    ])
    func `a script cannot define an instruction of a name that is not its to give`(
        name: String, code: ErrorCode
    ) throws {
        let fixture = try serving()
        expectRefused(code, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("a.lua", ["greet", name])
        }
        fixture.engine.clear()
        expectRefused(code, fixture, discards: false) { fixture throws(InstructionError) in
            _ = try fixture.app.add(instruction: name, body: "function() end", isPublic: true)
        }
        #expect(fixture.engine.actions == [], "the name is looked at before anything is compiled")
    }

    @Test(arguments: ["", "a\tb", String(repeating: "x", count: 129)])
    func `scripts and modules have names as well`(name: String) throws {
        let fixture = try serving()
        expectRefused(.badParameters, fixture, discards: false) { fixture throws(InstructionError) in
            try fixture.load(name, ["new"])
        }
        expectRefused(.badParameters, fixture, discards: false) { fixture throws(InstructionError) in
            _ = try fixture.app.add(module: name, source: "return {}")
        }
        #expect(fixture.engine.actions == [])
    }

    @Test func `a name of 128 bytes is the longest`() throws {
        let fixture = try serving()
        let name = String(repeating: "é", count: 64)
        #expect(try fixture.app.add(instruction: name, body: "function() end", isPublic: true).name == name)
        expectBalance(fixture)
    }

    @Test func `an instruction of another script is not overwritten`() throws {
        let fixture = try serving()
        expectRefused(.conflict, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("b.lua", ["count", "greet"])
        }
        fixture.engine.clear()
        expectRefused(.conflict, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("c.lua", ["greet"])
        }
    }

    @Test func `one script cannot define a name twice`() throws {
        let fixture = try serving()
        expectRefused(.conflict, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("c.lua", ["twice", "twice"])
        }
    }

    @Test func `the limit of instructions holds for scripts and for single ones`() throws {
        var limits = Limits()
        limits.instructions = 4
        let fixture = try serving(limits: limits)
        expectRefused(.limit, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("c.lua", ["one more"])
        }
        fixture.engine.clear()
        expectRefused(.limit, fixture, discards: true) { fixture throws(InstructionError) in
            _ = try fixture.app.add(instruction: "one more", body: "function() end", isPublic: true)
        }
        // What replaces makes no more of them.
        _ = try fixture.app.add(instruction: "loose", body: "function() end", isPublic: true)
        try fixture.load("a.lua", ["greet", "another"])
        #expect(fixture.app.set.instructions.count == 4)
        expectBalance(fixture)
    }

    @Test func `the limit of a body's bytes holds before it is compiled`() throws {
        var limits = Limits()
        limits.instructionBytes = 64
        let fixture = try serving(limits: limits)
        expectRefused(.limit, fixture, discards: false) { fixture throws(InstructionError) in
            _ = try fixture.app.add(
                instruction: "long", body: String(repeating: "é", count: 32) + " ", isPublic: true)
        }
        #expect(fixture.engine.actions == [])
        _ = try fixture.app.add(instruction: "long", body: String(repeating: "é", count: 32), isPublic: true)
        expectBalance(fixture)
    }

    @Test func `a reload hook that fails keeps the old generation`() throws {
        let fixture = try serving()
        fixture.engine.reloadFailure = ScriptFailure(code: .scriptError, message: "a.lua:9: cannot migrate")
        expectRefused(.scriptError, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("a.lua", ["greet"], hooks: [.reload])
        }
        #expect(fixture.engine.actions.contains { if case .reload(_, previous: 3) = $0 { true } else { false } })
    }

    /// Memory runs out at the first chain, at the second … until a change passes.
    @Test func `whichever chain finds no memory, nothing has changed`() throws {
        var failures = 0
        while true {
            let fixture = try serving()
            fixture.engine.chainsLeft = failures
            let before = Served(fixture.app.set)
            do throws(InstructionError) {
                try fixture.load("c.lua", ["new"], hooks: [.open, .handshake])
                #expect(Served(fixture.app.set) != before)
                expectBalance(fixture)
                break
            } catch {
                #expect(error.code == .memoryExceeded)
            }
            #expect(Served(fixture.app.set) == before)
            expectBalance(fixture)
            #expect(fixture.engine.actions.last == .discard(unit: 4))
            failures += 1
        }
        // message, event:tick, close, open, handshake
        #expect(failures == 5)
    }

    @Test func `removing and unloading need memory for the chains too, and change nothing without`() throws {
        let fixture = try serving()
        fixture.engine.chainsLeft = 1
        expectRefused(.memoryExceeded, fixture, discards: false) { fixture throws(InstructionError) in
            _ = try fixture.app.remove(instruction: "greet")
        }
        fixture.engine.chainsLeft = 0
        expectRefused(.memoryExceeded, fixture, discards: false) { fixture throws(InstructionError) in
            _ = try fixture.app.unload(script: "a.lua")
        }
    }

    @Test func `a change for another generation is refused before it is staged`() throws {
        let fixture = try serving()
        for generation in [2, 4, 0, -1] {
            expectRefused(.conflict, fixture, discards: false) { fixture throws(InstructionError) in
                try fixture.load("a.lua", ["greet"], ifGeneration: generation)
            }
        }
        #expect(fixture.engine.actions == [])
        #expect(try fixture.load("a.lua", ["greet"], ifGeneration: 3).generation == 4)
    }

    @Test func `what is not there cannot be removed or unloaded`() throws {
        let fixture = try serving()
        for name in ["nobody", "invoke", "Greet", ""] {
            expectRefused(.notFound, fixture, discards: false) { fixture throws(InstructionError) in
                _ = try fixture.app.remove(instruction: name)
            }
            expectRefused(.notFound, fixture, discards: false) { fixture throws(InstructionError) in
                _ = try fixture.app.unload(script: name)
            }
        }
    }

    // MARK: Dry runs

    @Test func `a dry run stages and checks, and changes nothing`() throws {
        let fixture = try serving()
        let before = Served(fixture.app.set)
        let result = try fixture.load("c.lua", ["new", "newer"], hooks: [.reload, .open], isDryRun: true)
        #expect(result.generation == 3)
        #expect(result.instructions == ["new", "newer"])
        #expect(Served(fixture.app.set) == before)
        #expect(fixture.engine.actions == [.stageScript("c.lua"), .discard(unit: 4)])
        expectBalance(fixture)
    }

    @Test func `a dry run finds what a real one would`() throws {
        let fixture = try serving()
        expectRefused(.conflict, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("c.lua", ["greet"], isDryRun: true)
        }
        expectRefused(.conflict, fixture, discards: true) { fixture throws(InstructionError) in
            try fixture.load("c.lua", ["new"], isDryRun: true, ifGeneration: 2)
        }
    }

    // MARK: Success

    @Test func `a first script makes generation 1`() throws {
        let fixture = try AppFixture()
        #expect(fixture.app.set.generation == 0)
        let result = try fixture.load("a.lua", ["greet", "part"], hooks: [.reload, .event("tick")])
        #expect(result.generation == 1)
        #expect(result.instructions == ["greet", "part"])
        #expect(
            fixture.engine.actions == [
                .stageScript("a.lua"), .reload(unit: 1, previous: 0), .commit(unit: 1),
                .activate(generation: 1, events: ["tick"]),
            ])
        let greet = try #require(fixture.app.set.instructions["greet"])
        #expect(greet.version == 1)
        #expect(greet.generation == 1)
        #expect(greet.script == "a.lua")
        #expect(greet.summary == "about greet")
        expectBalance(fixture)
    }

    @Test func `a script that is loaded again replaces all that it had defined, and nothing else`() throws {
        let fixture = try serving()
        let count = try #require(fixture.app.set.instructions["count"])
        let retired = try #require(fixture.app.set.instructions["part"]).function
        try fixture.load("a.lua", ["greet", "new"], hooks: [.open])
        let set = fixture.app.set
        #expect(set.generation == 4)
        #expect(set.instructions.keys.sorted() == ["count", "greet", "loose", "new"])
        #expect(set.instructions["count"] === count)
        #expect(set.instructions["greet"]?.version == 2)
        #expect(set.instructions["greet"]?.generation == 4)
        #expect(set.instructions["new"]?.version == 1)
        #expect(set.chains.keys.contains(.event("tick")) == false)
        #expect(!fixture.engine.held.contains(retired))
        expectBalance(fixture)
    }

    @Test func `scripts keep the place in which they were first loaded`() throws {
        let fixture = try serving()
        try fixture.load("a.lua", ["greet"], hooks: [.message])
        #expect(fixture.app.set.scripts.map(\.name) == ["a.lua", "b.lua"])
        let chain = try #require(fixture.app.set.messageChain)
        let hooks = fixture.app.set.scripts.map { script in
            script.hooks.filter { $0.point == .message }.map(\.function)
        }
        #expect(fixture.engine.chains[chain]?.functions == hooks.flatMap { $0 })
        // Unloaded and loaded again, it comes last.
        _ = try fixture.app.unload(script: "a.lua")
        try fixture.load("a.lua", ["greet"])
        #expect(fixture.app.set.scripts.map(\.name) == ["b.lua", "a.lua"])
        expectBalance(fixture)
    }

    @Test func `an instruction by itself replaces one of a script, and takes it from the script`() throws {
        let fixture = try serving()
        let added = try fixture.app.add(instruction: "greet", body: "function() end", isPublic: false)
        #expect(added.version == 2)
        #expect(added.generation == 4)
        #expect(added.script == nil)
        #expect(!added.isPublic)
        #expect(fixture.app.set.instructions["greet"] === added)
        expectBalance(fixture)
        // It belongs to nobody now, so that the script takes it back.
        try fixture.load("a.lua", ["greet"])
        #expect(fixture.app.set.instructions["greet"]?.script == "a.lua")
        #expect(fixture.app.set.instructions["greet"]?.version == 3)
        expectBalance(fixture)
    }

    @Test func `removing and unloading release what they took away`() throws {
        let fixture = try serving()
        #expect(try fixture.app.remove(instruction: "greet") == 4)
        #expect(fixture.app.set.instructions["greet"] == nil)
        expectBalance(fixture)
        #expect(try fixture.app.unload(script: "a.lua") == 5)
        #expect(fixture.app.set.instructions.keys.sorted() == ["count", "loose"])
        expectBalance(fixture)
        #expect(try fixture.app.unload(script: "b.lua") == 6)
        #expect(try fixture.app.remove(instruction: "loose") == 7)
        #expect(fixture.app.set.functions.isEmpty)
        #expect(fixture.engine.held.isEmpty)
        expectBalance(fixture)
    }

    @Test func `a version goes on counting when its name comes back`() throws {
        let fixture = try serving()
        _ = try fixture.app.remove(instruction: "greet")
        #expect(try fixture.app.add(instruction: "greet", body: "function() end", isPublic: true).version == 2)
        _ = try fixture.app.unload(script: "b.lua")
        try fixture.load("b.lua", ["count"])
        #expect(fixture.app.set.instructions["count"]?.version == 2)
    }

    @Test func `a change that is refused uses up no version and no generation`() throws {
        let fixture = try serving()
        fixture.engine.reloadFailure = ScriptFailure(code: .scriptError, message: "no")
        for _ in 0..<3 {
            #expect(throws: InstructionError.self) { try fixture.load("a.lua", ["greet"], hooks: [.reload]) }
        }
        fixture.engine.reloadFailure = nil
        #expect(try fixture.load("a.lua", ["greet"], hooks: [.reload]).generation == 4)
        #expect(fixture.app.set.instructions["greet"]?.version == 2)
    }

    @Test func `a module counts its versions and makes a generation`() throws {
        let fixture = try serving()
        #expect(try fixture.app.add(module: "tables", source: "return {}") == 1)
        #expect(try fixture.app.add(module: "tables", source: "return {}") == 2)
        #expect(try fixture.app.add(module: "texts", source: "return {}") == 1)
        #expect(fixture.app.set.modules == ["tables": 2, "texts": 1])
        #expect(fixture.app.set.generation == 6)
        #expect(fixture.app.set.instructions.count == 4)
        expectBalance(fixture)
    }

    @Test func `limits that change reach the engine`() throws {
        let fixture = try AppFixture()
        #expect(fixture.engine.budgets == App.budgets(of: Limits()))
        var limits = Limits()
        limits.burst = .milliseconds(77)
        limits.scriptMemory = 1 << 20
        fixture.app.limitsChanged(limits)
        #expect(fixture.engine.budgets.burst == .milliseconds(77))
        #expect(fixture.engine.budgets.memoryBytes == 1 << 20)
    }

    @Test func `names that Unicode takes for the same and the wire does not are two`() throws {
        let fixture = try AppFixture()
        _ = try fixture.app.add(instruction: "caf\u{E9}", body: "", isPublic: true)
        _ = try fixture.app.add(instruction: "cafe\u{301}", body: "", isPublic: true)
        #expect(fixture.app.set.instructions.count == 2)
        for name in ["caf\u{E9}", "cafe\u{301}"] {
            let entry = Array(name.utf8).withUnsafeBytes { fixture.app.set.entry($0) }
            guard case .instruction(let found) = entry else {
                Issue.record("\(name.utf8.count) bytes are not found")
                continue
            }
            #expect(found.name.utf8.elementsEqual(name.utf8))
        }
    }
}
