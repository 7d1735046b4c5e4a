import ArgumentParser
import FoundationEssentials
import Glibc
import Logging
import Outbound
import Relay
import RelayClient
import Scripting

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Run the relay.",
        discussion: """
            Each flag has a name in the configuration file and a variable RELAYD_…: flags go before the environment, \
            the environment before the file, the file before the defaults. `relayd serve --print-config` shows what is \
            in force, where it came from, and whether SIGHUP, which reads the file and the certificates again, changes \
            it live. SIGTERM drains: every connection is asked to leave, then the relay exits.

            When it listens, the relay prints one line per listener to standard output, as in \
            `listening ws://127.0.0.1:8087`, and nothing else there. The log goes to standard error.
            """)

    @Option(help: ArgumentHelp("The configuration file (YAML). Also $RELAYD_CONFIG.", valueName: "file"))
    var config: String?

    @Option(
        help: ArgumentHelp(
            "Where to listen: ws://HOST:PORT, wss://HOST:PORT or unix:PATH. ?auth=TOKEN, ?livecode=1, ?proxy=v1|v2|any "
                + "and ?server=NAME&port=N may follow. Repeatable. Port 0 picks a free port. "
                + "Default: ws://127.0.0.1:8087.", valueName: "url"))
    var listen: [String] = []

    @Option(
        help: ArgumentHelp(
            "A relay to link with, so that the servers of either are reachable from both, as in "
                + "wss://relay.example?auth=TOKEN; credential=SECRET, cost=N and ca=FILE may follow. Repeatable. Also "
                + "links: in the configuration file.", valueName: "url"))
    var connect: [String] = []

    @Option(
        help: ArgumentHelp("A Lua file to load at start, or a directory of them. Repeatable.", valueName: "path"))
    var script: [String] = []

    @Option(help: ArgumentHelp("The state directory. Default: ./relayd-state.", valueName: "directory"))
    var state: String?

    @Option(help: ArgumentHelp("Event loops. Default: one for each processor.", valueName: "count"))
    var loops: String?

    @Option(help: ArgumentHelp("The kernel's interface for sockets: auto, io_uring or epoll.", valueName: "name"))
    var io: String?

    @Option(help: ArgumentHelp("The certificate chain of wss:// listeners (PEM).", valueName: "file"))
    var tlsCertificate: String?

    @Option(help: ArgumentHelp("The certificate's key (PEM).", valueName: "file"))
    var tlsKey: String?

    @Flag(help: "Make a key and a certificate in the state directory on first use, and serve them.")
    var tlsSelfSigned = false

    @Option(
        help: ArgumentHelp(
            "A limit, as in messageBytes=64KiB or burst=5ms. Repeatable. `relayd explain` lists them.",
            valueName: "name=value"))
    var limit: [String] = []

    @Option(
        help: ArgumentHelp(
            "An Origin that handshakes may carry, as in https://example.com. Repeatable. Default: any.",
            valueName: "origin"))
    var allowedOrigin: [String] = []

    @Option(
        help: ArgumentHelp(
            "Proxies whose X-Forwarded-For, Forwarded and PROXY headers are believed, as in 10.0.0.0/8. Repeatable. "
                + "Default: none.", valueName: "cidr"))
    var trustedProxies: [String] = []

    @Option(help: ArgumentHelp("What every path begins with, as in /relay.", valueName: "path"))
    var basePath: String?

    @Option(
        help: ArgumentHelp(
            "Where scripts may send HTTP requests: HOST[:PORT], *.DOMAIN, an address or a range. Repeatable. Default: "
                + "nowhere.", valueName: "host"))
    var httpAllow: [String] = []

    @Option(
        help: ArgumentHelp("Verify https servers of scripts against these authorities (PEM).", valueName: "file"))
    var httpCa: String?

    @Option(help: ArgumentHelp("A value for scripts, relay.config.NAME. Repeatable.", valueName: "name=value"))
    var set: [String] = []

    @Flag(help: "Serve the example pages, at /examples/.")
    var examples = false

    @Option(
        help: ArgumentHelp("trace, debug, info, notice, warning, error or critical.", valueName: "level"))
    var logLevel: String?

    @Option(help: ArgumentHelp("text or json.", valueName: "format"))
    var logFormat: String?

    @Option(help: ArgumentHelp("From SIGTERM to the exit. Default: 10s.", valueName: "time"))
    var drainTimeout: String?

    @Flag(help: "Print the configuration in force, with each value's range and source, and exit.")
    var printConfig = false

    /// The flags as settings; those that were not given are left out.
    private var flags: [(name: String, texts: [String])] {
        let lists = [
            ("listen", listen), ("links", connect), ("script", script), ("http.allow", httpAllow), ("settings", set),
            ("allowedOrigins", allowedOrigin), ("trustedProxies", trustedProxies),
        ]
        let values = [
            ("state", state), ("loops", loops), ("io", io), ("tls.certificate", tlsCertificate), ("tls.key", tlsKey),
            ("tls.selfSigned", tlsSelfSigned ? "true" : nil), ("examples", examples ? "true" : nil),
            ("basePath", basePath), ("http.ca", httpCa), ("log.level", logLevel), ("log.format", logFormat),
            ("drain.timeout", drainTimeout),
        ]
        return lists.filter { !$0.1.isEmpty }.map { (name: $0.0, texts: $0.1) }
            + values.compactMap { name, text in text.map { (name: name, texts: [$0]) } }
    }

    private var loader: ConfigurationLoader {
        let environment = ProcessInfo.processInfo.environment
        return ConfigurationLoader(
            file: config ?? environment["RELAYD_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }, environment: environment,
            flags: flags, limitFlags: limit)
    }

    func validate() throws {
        // What is wrong with a flag by itself is a matter of usage.
        var unused = Configuration()
        do { try loader.applyFlags(to: &unused) } catch { throw ValidationError(error.message) }
    }

    func run() throws {
        let loader = loader
        let configuration: Configuration
        do { configuration = try loader.load() } catch { throw ClientFailure.refused("Cannot start: \(error)") }
        if printConfig {
            writeText(configuration.printed())
            return
        }
        // Writing to a peer that is gone, or to a closed pipe, is an error to handle, not a reason to die.
        signal(SIGPIPE, SIG_IGN)
        OpenSSLErrors.keepLibraryAtExit()
        let writer = LogWriter(level: configuration.logLevel, format: configuration.logFormat)
        let code = try serve(configuration, loader, writer)
        writer.stop()
        throw ExitCode(code)
    }

    private func serve(
        _ configuration: Configuration, _ loader: ConfigurationLoader, _ writer: LogWriter
    ) throws -> Int32 {
        let logger = writer.makeLogger()
        do {
            let credentials = try CredentialStore.open(stateDirectory: configuration.stateDirectory)
            for note in credentials.notes { logger.warning("\(note)") }
            if credentials.isNew {
                logger.info("made an admin credential", metadata: ["file": "\(credentials.adminFile)"])
            }
            let daemon = try Daemon(
                configuration: configuration, credentials: credentials, logger: logger, files: StaticFile.embedded,
                outbound: try OutboundClient(
                    allowed: configuration.httpAllowList, certificateFile: configuration.httpCertificateAuthorities),
                dial: LinkDial.dial
            ) { (host, budgets) throws(ScriptFailure) in
                try LuaEngine(host: host, budgets: budgets)
            }
            for address in try daemon.start() { writeLine("listening \(address)") }
            let reloader = ConfigurationReloader(loader: loader, current: configuration)
            return daemon.run(reload: reloader.reload) { next in
                writer.level = next.logLevel
                writer.format = next.logFormat
            }
        } catch {
            writer.stop()
            throw ClientFailure.refused("Cannot start: \(error).")
        }
    }
}
