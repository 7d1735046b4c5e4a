import ArgumentParser
import RelayClient

struct ListCommand: ParsableCommand {
    enum Kind: String, CaseIterable, ExpressibleByArgument {
        case instructions, servers, connections, channels, apps, modules, links

        /// What a table shows: heading, and the member of each object.
        var columns: [(heading: String, member: String)] {
            switch self {
            case .instructions:
                [
                    ("INSTRUCTION", "instruction"), ("VERSION", "version"), ("PUBLIC", "public"),
                    ("GENERATION", "generation"), ("SCRIPT", "script"), ("SUMMARY", "summary"),
                ]
            case .servers:
                [("SERVER", "server"), ("CONNECTION", "connection"), ("ADDRESS", "remoteAddress"), ("COST", "cost")]
            case .connections:
                [
                    ("CONNECTION", "connection"), ("ADDRESS", "remoteAddress"), ("PORT", "remotePort"),
                    ("PATH", "path"), ("ADMIN", "admin"), ("TLS", "tls"), ("QUEUED", "queuedBytes"),
                    ("SILENT MS", "silentMilliseconds"),
                ]
            case .channels:
                [
                    ("CHANNEL", "channel"), ("SERVER", "server"), ("PORT", "port"), ("CLIENT", "client"),
                    ("ADDRESS", "remoteAddress"),
                ]
            case .apps: [("APP", "app"), ("LOOP", "loop")]
            case .links:
                [
                    ("CONNECTION", "connection"), ("ADDRESS", "remoteAddress"), ("RELAY", "relay"), ("URL", "url"),
                    ("COST", "cost"), ("SERVERS", "servers"), ("FAILURE", "failure"),
                ]
            case .modules: [("MODULE", "module"), ("VERSION", "version")]
            }
        }
    }

    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List what the relay has: instructions, servers, connections, channels, apps, modules or links.")

    @OptionGroup var client: ClientOptions
    @Argument(help: "What to list.") var kind: Kind

    func run() throws {
        let credential = try client.requiredCredential()
        let connection = try client.connect()
        let result = try connection.request(kind.rawValue, .object([:]), credential: credential)
        connection.close()
        if client.json { return writeLine(result.json()) }
        let rows = (result.array ?? []).map { entry in
            kind.columns.map { column in
                switch entry[column.member] {
                case nil, .null: ""
                case .bool(let value): value ? "yes" : "no"
                case .some(let value): value.text
                }
            }
        }
        writeLine(table(kind.columns.map(\.heading), rows))
    }
}
