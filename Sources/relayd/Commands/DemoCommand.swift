import ArgumentParser
import Relay
import RelayClient

struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Tunnel messages through a relay, replace one of its instructions meanwhile, and tell what happened.",
        discussion: """
            Speaks to the relay at --to, or starts one for the time of the demo when none answers. In an app of its \
            own it adds the six instructions of a tunnel one by one, connects a server and a client through them, \
            sends numbered messages both ways for three seconds, and replaces "forward to server" while they flow. \
            Exits with 1 if a message was lost, doubled or out of order, or a socket closed.
            """)

    @OptionGroup var client: ClientOptions

    func run() throws {
        guard client.app == nil else {
            throw ClientFailure.refused("The demo makes an app of its own: leave --app out.")
        }
        let report = try runAgainstRelay()
        writeLine(client.json ? report.json : report.text)
        if !report.isClean { throw ExitCode(1) }
    }

    private func runAgainstRelay() throws(ClientFailure) -> DemoReport {
        let url = try client.url()
        let admin: RelayConnection
        do {
            admin = try RelayConnection(to: url, trust: client.trust(for: url))
        } catch {
            guard error.kind == .unreachable else { throw error }
            return try runAgainstOwnRelay(insteadOf: url)
        }
        return try runDemo(
            at: url, trust: client.trust(for: url), admin, credential: try client.requiredCredential())
    }

    private func runAgainstOwnRelay(insteadOf url: RelayURL) throws(ClientFailure) -> DemoReport {
        let relay = try DemoRelay()
        defer { relay.stop() }
        if !client.json { writeLine("No relay answers at \(url): started one at \(relay.url).") }
        let admin = try RelayConnection(to: relay.url)
        return try runDemo(at: relay.url, trust: Trust(), admin, credential: relay.credential)
    }

    private func runDemo(
        at url: RelayURL, trust: Trust, _ admin: RelayConnection, credential: String
    ) throws(ClientFailure) -> DemoReport {
        let app = "demo-" + TextEncoding.hex(SecureRandom.bytes(4))
        let named = JSONValue.object(["app": .string(app)])
        _ = try admin.request("create app", named, credential: credential)
        let outcome: Result<DemoReport, ClientFailure>
        do {
            var traffic = try DemoTraffic(url: try url.app(app), trust: trust, credential: credential)
            outcome = .success(try traffic.run(for: .seconds(3)))
        } catch {
            outcome = .failure(error)
        }
        // Whatever happened, the relay is left as it was found; why the demo failed goes before why this did.
        do { _ = try admin.request("remove app", named, credential: credential) } catch {
            if case .success = outcome { throw error }
        }
        admin.close()
        return try outcome.get()
    }
}
