/// What an app answers to, as of one generation: instructions, the hooks of its scripts and its modules. Immutable: a
/// change makes the next one and swaps it in.
package struct InstructionSet: Sendable {
    /// A script as it was loaded.
    package struct Script: Sendable {
        package var name: VerbatimText
        package var hooks: [StagedUnit.Hook]
    }

    /// What a name of the wire stands for.
    enum Entry: Sendable {
        case builtIn(BuiltIn)
        case instruction(Instruction)
    }

    package let generation: Int
    package let instructions: [VerbatimText: Instruction]
    /// In the order in which they were first loaded, which is the order of their hooks.
    package let scripts: [Script]
    /// The highest version that each name ever had, so that a name that comes back goes on counting.
    package let versions: [VerbatimText: Int]
    package let modules: [VerbatimText: Int]
    /// One function per hook point that has hooks.
    package let chains: [HookPoint: FunctionReference]
    /// The two chains that a message or a connection looks for, without hashing.
    let messageChain: FunctionReference?
    private let table: NameTable<Entry>

    static let empty = InstructionSet(
        generation: 0, instructions: [:], scripts: [], versions: [:], modules: [:], chains: [:])

    init(
        generation: Int, instructions: [VerbatimText: Instruction], scripts: [Script],
        versions: [VerbatimText: Int],
        modules: [VerbatimText: Int], chains: [HookPoint: FunctionReference]
    ) {
        self.generation = generation
        self.instructions = instructions
        self.scripts = scripts
        self.versions = versions
        self.modules = modules
        self.chains = chains
        messageChain = chains[.message]
        table = NameTable(
            instructions.values.map { (name: $0.name, value: .instruction($0)) }
                + BuiltIn.allCases.map { (name: $0.rawValue, value: .builtIn($0)) })
    }

    /// What the bytes of a name stand for.
    func entry(_ name: UnsafeRawBufferPointer) -> Entry? { table[name] }

    var eventChains: [String: FunctionReference] {
        var result: [String: FunctionReference] = [:]
        for case (.event(let name), let chain) in chains { result[name.text] = chain }
        return result
    }

    /// Every function that this set keeps alive, its chains included.
    var functions: Set<FunctionReference> {
        var result = Set(chains.values)
        result.formUnion(instructions.values.map(\.function))
        for script in scripts { result.formUnion(script.hooks.map(\.function)) }
        return result
    }

    /// Which hooks run at each point: those of the first script first.
    static func hooks(of scripts: [Script]) -> [HookPoint: [FunctionReference]] {
        var result: [HookPoint: [FunctionReference]] = [:]
        for script in scripts {
            for hook in script.hooks where hook.point != .reload {
                result[hook.point, default: []].append(hook.function)
            }
        }
        return result
    }
}

/// The instructions that the relay itself answers (DESIGN §6). Their names cannot be given to others.
package enum BuiltIn: String, CaseIterable, Sendable {
    case addInstruction = "add instruction"
    case removeInstruction = "remove instruction"
    case invoke
    case eval
    case loadScript = "load script"
    case unloadScript = "unload script"
    case require
    case modules, instructions, servers, connections, channels, apps, links
    case closeConnection = "close connection"
    case createApp = "create app"
    case removeApp = "remove app"
    case createCredential = "create credential"
    case revokeCredential = "revoke credential"

    /// Names that the contract gives to the relay although nothing answers them yet.
    package static let reserved: Set<String> = ["history", "rollback"]

    package static func isReserved(_ name: String) -> Bool {
        BuiltIn(rawValue: name) != nil || reserved.contains(name)
    }
}

/// An instruction that was not carried out: what the error reply says.
struct InstructionError: Error {
    var code: ErrorCode
    var message: String
    var failure: ScriptFailure?

    init(_ code: ErrorCode, _ message: String) {
        self.code = code
        self.message = message
    }

    init(_ failure: ScriptFailure) {
        code = failure.code
        message = failure.message
        self.failure = failure
    }

    /// The error object of a reply: `{"code":…,"message":…,"data":{…}}`.
    func append(to json: inout [UInt8]) {
        json.append(contentsOf: #"{"code":""#.utf8)
        json.append(contentsOf: code.rawValue.utf8)
        json.append(contentsOf: #"","message":"#.utf8)
        JSONString.write(message, into: &json)
        if let failure {
            var separator = #","data":{"#
            func field(_ name: String, _ write: (inout [UInt8]) -> Void) {
                json.append(contentsOf: separator.utf8)
                separator = ","
                JSONString.write(name, into: &json)
                json.append(UInt8(ascii: ":"))
                write(&json)
            }
            if let instruction = failure.instruction {
                field("instruction") { JSONString.write(instruction, into: &$0) }
            }
            if let file = failure.file { field("file") { JSONString.write(file, into: &$0) } }
            if let line = failure.line { field("line") { $0.append(contentsOf: String(line).utf8) } }
            if let generation = failure.generation {
                field("generation") { $0.append(contentsOf: String(generation).utf8) }
            }
            if let traceback = failure.traceback { field("traceback") { JSONString.write(traceback, into: &$0) } }
            if separator == "," { json.append(UInt8(ascii: "}")) }
        }
        json.append(UInt8(ascii: "}"))
    }
}
