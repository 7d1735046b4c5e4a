import ArgumentParser
import Glibc
import Relay
import RelayClient
import Scripting

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Compile scripts and run them once, without a relay, and print what they define.",
        discussion: """
            Prints each script's instructions and hooks, or file, line and reason; exits with 1 if any does not load. \
            Each script runs in a fresh state of its own, as at the first start; nothing it defines is called, except \
            its reload hooks.
            """)

    @Argument(help: ArgumentHelp("Lua files.", valueName: "file")) var files: [String]
    @Flag(help: "Print one JSON object for each file.") var json = false

    func run() throws {
        var hasFailed = false
        for file in files {
            do throws(ScriptFailure) {
                let found = try Self.check(file)
                writeLine(json ? found.json : found.text)
            } catch {
                hasFailed = true
                if json {
                    writeLine(Self.json(of: error, file))
                } else {
                    writeError(Self.sentence(of: error, file), prefix: "")
                }
            }
        }
        if hasFailed { throw ExitCode(1) }
    }

    /// What a script defines.
    struct Findings {
        var file: String
        var instructions: [StagedUnit.Instruction]
        var hooks: [HookPoint]

        var text: String {
            var lines = ["\(printable(file)): loads"]
            for instruction in instructions {
                let summary = instruction.summary.isEmpty ? "" : ": \(printable(instruction.summary))"
                let kind = instruction.isPublic ? "" : " (admin only)"
                lines.append("  instruction \"\(printable(instruction.name))\"\(kind)\(summary)")
            }
            for hook in hooks { lines.append("  hook \(CheckCommand.name(of: hook))") }
            return lines.joined(separator: "\n")
        }

        var json: String {
            JSONValue.object([
                "file": .string(file),
                "instructions": .array(
                    instructions.map {
                        .object([
                            "instruction": .string($0.name), "public": .bool($0.isPublic),
                            "summary": .string($0.summary),
                        ])
                    }),
                "hooks": .array(hooks.map { .string(CheckCommand.name(of: $0)) }),
            ]).json()
        }
    }

    static func check(_ file: String) throws(ScriptFailure) -> Findings {
        var script: (name: String, source: String)
        do { script = try readScript(file) } catch {
            throw ScriptFailure(code: .compileError, message: "\(error)")
        }
        let host = AbsentRelay()
        let engine = try LuaEngine(host: host, budgets: ScriptBudgets())
        // The engine does not keep its host alive.
        defer { withExtendedLifetime(host) {} }
        let name = script.name
        let staged = script.source.withUTF8 { source in
            Result { () throws(ScriptFailure) in
                try engine.stage(script: name, source: UnsafeRawBufferPointer(source))
            }
        }
        let unit = try staged.get()
        defer { engine.discard(unit) }
        for instruction in unit.instructions where BuiltIn.isReserved(instruction.name) {
            throw ScriptFailure(
                code: .conflict, message: "'\(instruction.name)' is one of the relay's own instructions.")
        }
        try engine.runReload(of: unit, previousGeneration: 0)
        return Findings(file: file, instructions: unit.instructions, hooks: unit.hooks.map(\.point))
    }

    private static func name(of hook: HookPoint) -> String {
        switch hook {
        case .handshake: "handshake"
        case .open: "open"
        case .message: "message"
        case .connect: "connect"
        case .request: "request"
        case .close: "close"
        case .reload: "reload"
        case .event(let name): "event:\(printable(name.text))"
        }
    }

    /// `path:line: reason`. The engine knows the script by its file's name and puts that and the line in front.
    static func sentence(of failure: ScriptFailure, _ path: String) -> String {
        let name = fileName(of: path)
        var message = failure.message[...]
        if message.hasPrefix(path) { return printable(failure.message) }
        if message.hasPrefix(name + ":") {
            message = message.dropFirst(name.count + 1)
        } else {
            message = " " + message
        }
        return printable("\(path):\(message)")
    }

    private static func json(of failure: ScriptFailure, _ file: String) -> String {
        var error: [String: JSONValue] = [
            "code": .string(failure.code.rawValue), "message": .string(failure.message),
        ]
        if let line = failure.line { error["line"] = .integer(Int64(line)) }
        return JSONValue.object(["file": .string(file), "error": .object(error)]).json()
    }
}

/// What a script that is only checked has for a relay: nobody is connected, nothing is kept, `print` goes to standard
/// error.
private final class AbsentRelay: EngineHost {
    private var lastTimer: UInt64 = 0

    func send(_ bytes: UnsafeRawBufferPointer, isText: Bool, to connection: ConnectionID) -> ScriptSendResult {
        .dropped
    }
    func close(_ connection: ConnectionID, code: UInt16, reason: String) -> Bool { false }
    func isOpen(_ connection: ConnectionID) -> Bool { false }
    func may(_ connection: ConnectionID, _ serial: CallID, _ right: String) -> Bool? { false }
    func facts(of connection: ConnectionID) -> ConnectionFacts? { nil }
    func install(server: ServerID, connection: ConnectionID, options: ServerOptions) -> ErrorCode? { .notFound }
    func uninstall(server: ServerID) -> Bool { false }
    func server(_ server: ServerID) -> ConnectionID? { nil }
    func pipe(_ one: ConnectionID, _ other: ConnectionID) -> ErrorCode? { .notFound }
    func connect(_ connection: ConnectionID, server: ServerID, port: UInt16, metadata: String?) -> ConnectResult {
        .refused(.notFound)
    }
    func dial(server: ServerID, port: UInt16, callbacks: DialCallbacks, metadata: String?) -> DialResult {
        .refused(.notFound)
    }

    func hold(_ connection: ConnectionID, _ isHeld: Bool) -> Bool { false }
    func takeMessages(of connection: ConnectionID) -> Bool { false }
    func request(_ request: OutboundRequest) -> Result<ScriptRequestID, OutboundFailure> {
        .failure(OutboundFailure(.unavailable, "there is no relay"))
    }

    func schedule(after delay: Duration, repeats: Bool) -> ScriptTimerID? {
        lastTimer += 1
        return ScriptTimerID(rawValue: lastTimer)
    }
    func cancel(_ timer: ScriptTimerID) {}

    func callFinished(_ id: CallID, _ outcome: CallOutcome) {}
    func unattendedFailure(_ failure: ScriptFailure) { writeError(printable(failure.message)) }
    func log(level: ScriptLogLevel, message: String, fields: [(name: String, value: String)]) {
        let parts = [message] + fields.map { "\($0.name)=\($0.value)" }
        writeError(printable(parts.joined(separator: " ")), prefix: "")
    }

    func wallClockSeconds() -> Double { seconds(CLOCK_REALTIME) }
    func monotonicSeconds() -> Double { seconds(CLOCK_MONOTONIC) }
    private func seconds(_ clock: clockid_t) -> Double {
        var time = timespec()
        clock_gettime(clock, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    func randomBytes(_ count: Int) -> [UInt8] { SecureRandom.bytes(count) }
    func sha256(_ bytes: UnsafeRawBufferPointer) -> [UInt8] { Digest.sha256(bytes) }
    func hmacSHA256(key: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        Digest.hmacSHA256(key: key, bytes)
    }
    func constantTimeEqual(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool {
        Digest.constantTimeEqual(a, b)
    }
    var configJSON: String {
        let limits = Limits()
        return JSONValue.object([
            "app": .string("default"), "messageBytes": .integer(Int64(limits.messageBytes)),
            "outputBytesPerCall": .integer(Int64(limits.outputBytesPerCall)),
        ]).json()
    }
}
