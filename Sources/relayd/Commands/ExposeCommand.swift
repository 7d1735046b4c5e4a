import ArgumentParser
import RelayClient

struct ExposeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "expose",
        abstract: "Make local services reachable through the relay.",
        discussion: """
            As in `relayd expose 127.0.0.1:22 --as box:22`: whoever the relay connects to port 22 of the server box \
            speaks to this machine's port 22. A target is HOST:PORT, unix:PATH, http://HOST:PORT, or ws://HOST:PORT \
            (wss:// too) for a WebSocket service whose messages are kept as they are; several may be given, each \
            with its --as. --ca and --insecure hold for wss:// targets, too. Needs a credential with the right \
            listen:NAME. Connects anew whenever the relay goes away; ends with 1 when another connection takes the \
            name over, and with Ctrl-C.
            """)

    @OptionGroup var client: ClientOptions
    @OptionGroup var tunnel: TunnelFlags
    @Argument(
        help: ArgumentHelp(
            "What to expose: HOST:PORT, unix:PATH, http://HOST:PORT or ws://HOST:PORT.", valueName: "target"))
    var targets: [String]
    @Option(
        name: .customLong("as"),
        help: ArgumentHelp(
            "The server it becomes, and the port, which defaults to the target's own, or to 80 of http://. Once for "
                + "each target, in their order.", valueName: "name[:port]"))
    var names: [String]

    func validate() throws {
        guard targets.count == names.count else {
            throw ValidationError("Each target needs one --as: there are \(targets.count) and \(names.count).")
        }
    }

    func run() throws {
        var pairs: [ExposedTarget] = []
        for (target, name) in zip(targets, names) { pairs.append(try ExposedTarget(target, as: name)) }
        try Expose(pairs, try tunnel.options(client)).run()
    }
}

/// What both commands for tunnels take.
struct TunnelFlags: ParsableArguments {
    @Flag(help: "Say nothing but why it ends.")
    var quiet = false
    @Flag(help: "Keep trying when the relay cannot be reached at the start.")
    var retry = false

    func options(_ client: ClientOptions) throws(ClientFailure) -> TunnelOptions {
        let url = try client.url()
        return TunnelOptions(
            url: url, trust: client.trust(for: url), credential: try client.credential(), retries: retry,
            report: quiet ? { _ in } : { writeError($0) })
    }
}
