import ArgumentParser
import RelayClient

struct KickCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kick",
        abstract: "Close one connection.",
        discussion: "`relayd list connections` shows the ids. The peer is told with close code 4007 unless --code says "
            + "otherwise.")

    @OptionGroup var client: ClientOptions
    @Argument(help: ArgumentHelp("The connection's id.", valueName: "id")) var connection: UInt64
    @Option(help: ArgumentHelp("The close code, such as 4007 or 1000.", valueName: "code")) var code: UInt16?
    @Option(help: ArgumentHelp("The close reason, at most 123 bytes.", valueName: "text")) var reason: String?

    func run() throws {
        guard let id = Int64(exactly: connection) else {
            throw ClientFailure.refused("There is no connection \(connection).")
        }
        var parameters: [String: JSONValue] = ["connection": .integer(id)]
        if let code { parameters["code"] = .integer(Int64(code)) }
        if let reason { parameters["reason"] = .string(reason) }
        let credential = try client.requiredCredential()
        let relay = try client.connect()
        let result = try relay.request("close connection", .object(parameters), credential: credential)
        relay.close()
        writeLine(client.json ? result.json() : "closed \(id)")
    }
}
