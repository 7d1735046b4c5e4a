import ArgumentParser
import RelayClient

struct PushCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "push",
        abstract: "Load scripts into a running relay, each as one change that succeeds whole or not at all.",
        discussion: """
            A script is known by its file's name: pushing the file again replaces what it defined. Connections stay \
            open; calls in flight finish on the version that they started with. A script that does not compile, raises \
            or breaks a limit changes nothing, and its file, line and reason are printed.
            """)

    @OptionGroup var client: ClientOptions
    @Argument(help: ArgumentHelp("Lua files.", valueName: "file")) var files: [String]
    @Flag(help: "Compile and run the scripts aside, as a push would, and change nothing.") var dryRun = false
    @Option(
        help: ArgumentHelp(
            "Load only if the app is at this generation, so that nobody else's change is replaced unseen. With several "
                + "files it holds for the first.", valueName: "generation"))
    var ifGeneration: Int64?

    func run() throws {
        // Everything is read before anything is sent.
        var scripts: [(name: String, source: String)] = []
        for file in files {
            do { scripts.append(try readScript(file)) } catch { throw ClientFailure.refused("Cannot push \(error).") }
        }
        let credential = try client.requiredCredential()
        let connection = try client.connect()
        for (index, script) in scripts.enumerated() {
            let result = try connection.load(
                script, credential: credential, dryRun: dryRun, ifGeneration: index == 0 ? ifGeneration : nil)
            writeLine(client.json ? result.json() : describeLoad(script.name, result, dryRun: dryRun))
        }
        connection.close()
    }
}

extension RelayConnection {
    /// `load script` (DESIGN §6).
    func load(
        _ script: (name: String, source: String), credential: String, dryRun: Bool = false, ifGeneration: Int64? = nil
    ) throws(ClientFailure) -> JSONValue {
        var parameters: [String: JSONValue] = ["name": .string(script.name), "source": .string(script.source)]
        if dryRun { parameters["dryRun"] = .bool(true) }
        if let ifGeneration { parameters["ifGeneration"] = .integer(ifGeneration) }
        return try request("load script", .object(parameters), credential: credential)
    }
}

/// `tunnel.lua: generation 3, instructions: initialize, install server`
func describeLoad(_ name: String, _ result: JSONValue, dryRun: Bool = false) -> String {
    let names = result["instructions"]?.array?.map { printable($0.text) } ?? []
    let what = names.isEmpty ? "no instructions" : "instructions: \(names.joined(separator: ", "))"
    if dryRun { return "\(printable(name)): would load, \(what)" }
    return "\(printable(name)): generation \(result["generation"]?.text ?? "?"), \(what)"
}
