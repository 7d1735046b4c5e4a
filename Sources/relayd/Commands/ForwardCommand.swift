import ArgumentParser
import RelayClient

struct ForwardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forward",
        abstract: "Connect a local address to a port of a server of the relay.",
        discussion: """
            As in `relayd forward 127.0.0.1:2222 box:22`: what connects to port 2222 here speaks to port 22 of the \
            server box. LOCAL is HOST:PORT, where port 0 picks a free one, or unix:PATH; once it listens, one line on \
            standard output says where. With stdio it is the command's own standard input and output, as in \
            `ssh -o ProxyCommand='relayd forward stdio box:22' box`. Needs a credential with the right \
            connect:NAME:PORTS. Connects anew whenever the relay goes away; connections wait five seconds for it, and \
            are reset after that. Ends with Ctrl-C.
            """)

    @OptionGroup var client: ClientOptions
    @OptionGroup var tunnel: TunnelFlags
    @Argument(help: ArgumentHelp("Where to listen: HOST:PORT, unix:PATH or stdio.", valueName: "local"))
    var local: String
    @Argument(help: ArgumentHelp("The server and its port.", valueName: "name:port"))
    var destination: String

    func run() throws {
        let forward = try Forward(
            Forward.Source(local), to: destination, try tunnel.options(client))
        if let endPoint = forward.endPoint { writeLine("listening \(endPoint)") }
        try forward.run()
    }
}
