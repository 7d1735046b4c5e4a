import ArgumentParser

/// The command line (DESIGN §10).
struct RelaydCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "relayd",
        abstract: "A WebSocket relay whose behaviour is written while it runs.",
        discussion: """
            `relayd serve` runs the relay. Every other command speaks to a running one, found by --to URL, \
            $RELAYD_URL, or at ws://127.0.0.1:8087. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 cannot reach \
            the relay.
            """,
        version: relaydVersion,
        subcommands: [
            ServeCommand.self, PushCommand.self, WatchCommand.self, InvokeCommand.self, EvalCommand.self,
            ListCommand.self, KickCommand.self, CredentialCommand.self, CheckCommand.self, ExplainCommand.self,
            DemoCommand.self, ExposeCommand.self, ForwardCommand.self,
        ])
}

let relaydVersion = "0.1.0"
