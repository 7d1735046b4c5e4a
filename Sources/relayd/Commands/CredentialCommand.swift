import ArgumentParser
import Glibc
import RelayClient

struct CredentialCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "credential",
        abstract: "Make and revoke credentials.",
        subcommands: [Create.self, Revoke.self])

    struct Create: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "create",
            abstract: "Make a credential and print its id and its secret, which is shown this once.",
            discussion: """
                Rights: admin, listen:<server-glob>, connect:<server-glob>:<ports>, invoke:<instruction-glob>. \
                --app limits the credential to that app, which is also the app that is spoken to.
                """)

        @OptionGroup var client: ClientOptions
        @Argument(help: ArgumentHelp("What it allows.", valueName: "right")) var rights: [String]
        @Option(help: ArgumentHelp("Seconds until it expires.", valueName: "seconds")) var expiresIn: Int64?
        @Option(help: ArgumentHelp("The addresses it may be used from, as in 10.0.0.0/8.", valueName: "cidr"))
        var cidr: String?
        @Option(help: ArgumentHelp("How many connections may use it at a time.", valueName: "count"))
        var maxConnections: Int64?

        func validate() throws {
            guard !rights.isEmpty else { throw ValidationError("Name at least one right.") }
            guard (expiresIn ?? 1) > 0, (expiresIn ?? 1) <= 3_153_600_000 else {
                throw ValidationError("--expires-in must be from 1 to 3153600000 seconds.")
            }
            guard (maxConnections ?? 1) > 0 else { throw ValidationError("--max-connections must be at least 1.") }
        }

        func run() throws {
            var parameters: [String: JSONValue] = ["rights": .array(rights.map { .string($0) })]
            if let app = client.app { parameters["app"] = .string(app) }
            if let expiresIn { parameters["expires"] = .integer(Int64(time(nil)) + expiresIn) }
            if let cidr { parameters["cidr"] = .string(cidr) }
            if let maxConnections { parameters["maxConnections"] = .integer(maxConnections) }
            let credential = try client.requiredCredential()
            let relay = try client.connect()
            let result = try relay.request("create credential", .object(parameters), credential: credential)
            relay.close()
            if client.json { return writeLine(result.json()) }
            writeLine("id          \(result["id"]?.text ?? "")")
            writeLine("credential  \(result["credential"]?.text ?? "")")
        }
    }

    struct Revoke: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "revoke",
            abstract: "Revoke a credential by its id; the connections that it opened are closed with 4002.")

        @OptionGroup var client: ClientOptions
        @Argument(help: ArgumentHelp("The credential's id.", valueName: "id")) var id: String

        func run() throws {
            let credential = try client.requiredCredential()
            let relay = try client.connect()
            let result = try relay.request("revoke credential", .object(["id": .string(id)]), credential: credential)
            relay.close()
            writeLine(client.json ? result.json() : "revoked \(id)")
        }
    }
}
