import ArgumentParser
import Glibc
import Relay
import RelayClient

/// What every command that speaks to a running relay takes.
struct ClientOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The relay: ws://HOST:PORT, wss://HOST:PORT or unix:PATH, with ?auth=TOKEN where the listener wants one. "
                + "Default: $RELAYD_URL, else ws://127.0.0.1:8087.", valueName: "url"))
    var to: String?

    @Option(
        help: ArgumentHelp(
            "The file that holds the credential; $RELAYD_CREDENTIAL goes before it. Default: STATE/admin.credential.",
            valueName: "file"))
    var credentialFile: String?

    @Option(help: ArgumentHelp("The app to speak to. Default: the default app.", valueName: "name"))
    var app: String?

    @Flag(help: "Print what the relay answered as JSON.")
    var json = false

    @Option(help: ArgumentHelp("The relay's state directory, where the credential is found.", valueName: "directory"))
    var state = environmentVariable("RELAYD_STATE") ?? "./relayd-state"

    @Option(help: ArgumentHelp("Trust this certificate, or its authority, for wss://.", valueName: "file"))
    var ca: String?

    @Flag(help: "Do not check the certificate of wss://. Whoever is in between can then read and change everything.")
    var insecure = false

    mutating func validate() throws {
        guard ca == nil || !insecure else { throw ValidationError("--ca and --insecure exclude each other.") }
    }

    /// The relay's URL, with the app's path.
    func url() throws(ClientFailure) -> RelayURL {
        let url = try RelayURL(parsing: to ?? environmentVariable("RELAYD_URL") ?? "ws://127.0.0.1:8087")
        guard let app else { return url }
        return try url.app(app)
    }

    /// Whom to trust as the relay at `url`.
    func trust(for url: RelayURL) -> Trust {
        if insecure { return Trust(possibilities: [.none]) }
        if let ca { return Trust(possibilities: [.file(ca)]) }
        // A relay on this machine that made its own certificate is known by the file it was written to.
        let ownCertificate = state + "/tls-certificate.pem"
        guard url.isLoopback, access(ownCertificate, R_OK) == 0 else { return Trust() }
        return Trust(possibilities: [.file(ownCertificate), .system])
    }

    func connect() throws(ClientFailure) -> RelayConnection {
        let url = try url()
        return try RelayConnection(to: url, trust: trust(for: url))
    }

    /// The credential, where there is one: $RELAYD_CREDENTIAL, else the file that was named, else the state
    /// directory's. A file that was named must be readable.
    func credential() throws(ClientFailure) -> String? {
        if let secret = environmentVariable("RELAYD_CREDENTIAL") { return secret }
        if let credentialFile { return try readCredential(credentialFile) }
        let path = state + "/admin.credential"
        guard access(path, F_OK) == 0 else { return nil }
        return try readCredential(path)
    }

    /// The credential, for commands that the relay refuses without one.
    func requiredCredential() throws(ClientFailure) -> String {
        if let secret = try credential() { return secret }
        throw .refused(
            "There is no credential: $RELAYD_CREDENTIAL is not set and \(state)/admin.credential does not exist. Name "
                + "the relay's state directory with --state, or a file with --credential-file.")
    }

    private func readCredential(_ path: String) throws(ClientFailure) -> String {
        let bytes: [UInt8]
        do { bytes = try readFile(path, maximumBytes: 4096) } catch {
            throw .refused("Cannot read the credential: \(error).")
        }
        let text = String(decoding: bytes, as: UTF8.self)
        let secret = text.drop { $0.isWhitespace }.prefix { !$0.isWhitespace }
        guard !secret.isEmpty else { throw .refused("Cannot read the credential: \(path) is empty.") }
        return String(secret)
    }
}
