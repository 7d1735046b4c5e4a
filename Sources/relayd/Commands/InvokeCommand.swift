import ArgumentParser
import Glibc
import Relay
import RelayClient

struct InvokeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "invoke",
        abstract: "Invoke an instruction and print what it returned.",
        discussion: """
            Each argument is JSON where it parses as JSON, else a string: `relayd invoke "install server" 0 secret`. A \
            single object is passed as named parameters. With a credential, instructions that are not public run as \
            well. Messages that the instruction sends come before what it returned.
            """)

    @OptionGroup var client: ClientOptions
    @Argument(help: ArgumentHelp("The instruction.", valueName: "name")) var name: String
    @Argument(help: ArgumentHelp("Its parameters.", valueName: "json")) var parameters: [String] = []

    func run() throws {
        let values = parameters.map { JSONValue(json: $0) ?? .string($0) }
        var passed = JSONValue.array(values)
        if values.count == 1, case .object = values[0] { passed = values[0] }
        let credential = try client.credential()
        let connection = try client.connect()
        let result: JSONValue
        if let credential {
            result = try connection.request(
                "invoke", .object(["instruction": .string(name), "parameters": passed]), credential: credential)
        } else {
            result = try connection.request(name, passed)
        }
        report(result, of: connection, isJSON: client.json)
        connection.close()
    }
}

struct EvalCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "eval",
        abstract: "Run Lua in the app's state and print what it returned.",
        discussion: "As in `relayd eval 'return #servers'`. The text `-` reads the Lua from standard input.")

    @OptionGroup var client: ClientOptions
    @Argument(help: ArgumentHelp("A Lua chunk, or - for standard input.", valueName: "lua")) var chunk: String

    func run() throws {
        let body = chunk == "-" ? try readStandardInput() : chunk
        let credential = try client.requiredCredential()
        let connection = try client.connect()
        let result = try connection.request("eval", .object(["body": .string(body)]), credential: credential)
        report(result, of: connection, isJSON: client.json)
        connection.close()
    }

    private func readStandardInput() throws(ClientFailure) -> String {
        var bytes: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = read(STDIN_FILENO, &block, block.count)
            if count == 0 { break }
            guard count > 0 else {
                if errno == EINTR { continue }
                throw .refused("Cannot read standard input: \(System.describe(errno: errno)).")
            }
            bytes.append(contentsOf: block[..<count])
            guard bytes.count <= 1 << 20 else { throw .refused("Standard input holds more than 1 MiB of Lua.") }
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw .refused("Standard input is not UTF-8 text.")
        }
        return text
    }
}

/// Prints the messages that came before a reply, then its result; `null` prints nothing unless JSON is asked for.
private func report(_ result: JSONValue, of connection: RelayConnection, isJSON: Bool) {
    for message in connection.takeWaiting() {
        switch message {
        case .text(let text): writeLine(isJSON ? JSONValue.string(text).json() : text)
        case .binary(let bytes): writeError("The instruction sent a binary message of \(bytes.count) bytes.")
        }
    }
    if isJSON {
        writeLine(result.json())
    } else if result != .null {
        writeLine(result.text)
    }
}
