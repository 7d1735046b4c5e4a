import Glibc
import Relay

/// A relay, as a client of it: opens channels to servers, becomes a server, invokes instructions.
///
///     let relay = try await Relay.connect(to: "ws://127.0.0.1:8087", credential: secret)
///     let channel = try await relay.open(server: "box", port: 7)
///     try await channel.send("hello")
///     for try await message in channel { print(message) }
///
/// The connection is made anew whenever it is lost, with growing pauses; channels end with the connection that carried
/// them. One thread does all the work, however many channels there are.
public final class Relay: Sendable {
    /// What a channel carries.
    public enum Message: Equatable, Sendable {
        case text(String)
        case binary([UInt8])
    }

    let inbox: Inbox
    private let client: Confined<ClientSide>
    private let settings: Settings

    /// What all sessions with one relay have in common.
    struct Settings: Sendable {
        let url: RelayURL
        let trust: Trust
        let credential: String?
        let maximumMessageBytes: Int
    }

    private init(inbox: Inbox, client: Confined<ClientSide>, settings: Settings) {
        self.inbox = inbox
        self.client = client
        self.settings = settings
    }

    deinit { inbox.post { $0.stop() } }

    /// Connects to a relay.
    ///
    /// - Parameters:
    ///   - url: `ws://HOST:PORT`, `wss://HOST:PORT` or `unix:PATH`, with `/app/NAME` behind the port for an app other
    ///     than the default one.
    ///   - credential: The secret that allows what is asked for later.
    ///   - certificateFile: Certificates to trust in place of the system's, in PEM.
    ///   - maximumMessageBytes: Larger messages than this end their channel.
    public static func connect(
        to url: String, credential: String? = nil, certificateFile: String? = nil,
        maximumMessageBytes: Int = 16 << 20
    ) async throws -> Relay {
        let settings = Settings(
            url: try RelayURL(parsing: url),
            trust: certificateFile.map { Trust(possibilities: [.file($0)]) } ?? Trust(), credential: credential,
            maximumMessageBytes: maximumMessageBytes)
        let loop = ClientLoop()
        let client = Confined(value: ClientSide(settings, loop))
        let relay = Relay(inbox: loop.inbox, client: client, settings: settings)
        let confined = Confined(value: loop)
        pthread_detach(System.startThread(name: "relay client") { confined.value.run() })
        try await relay.perform { _, done in client.value.start(done) }
        return relay
    }

    /// Opens a channel to a port of a server. Throws `ChannelClose` where the relay or the server rejects it.
    public func open(server: String, port: UInt16) async throws -> Channel {
        let client = client
        return try await perform { _, done in
            client.value.open(ServerID(server), port, done)
        }
    }

    /// Becomes a server: the channels that clients open to it are the elements of what this returns, until that is
    /// closed or let go. `ports` are those that it offers; nil: all.
    public func listen(server: String, ports: [UInt16]? = nil) async throws -> Server {
        let (inbox, settings) = (inbox, settings)
        let id = ServerID(server)
        return try await perform { loop, done in
            let side = ServerSide(id, ports: ports, settings, loop)
            side.start { done.resume(with: $0.map { Server(Confined(value: side), side.offers, inbox) }) }
        }
    }

    /// Invokes an instruction and returns what it returned. `parameters` are an array, or an object that is passed as
    /// one table.
    public func invoke(_ instruction: String, _ parameters: JSONValue = .array([])) async throws -> JSONValue {
        let client = client
        return try await perform { _, done in client.value.invoke(instruction, parameters, done) }
    }

    /// Closes the connection, and with it every channel and server. Nothing can be asked of the relay afterwards.
    public func close() { inbox.post { $0.stop() } }

    /// Does something on the loop's thread, which resumes the continuation sooner or later.
    func perform<Result: Sendable>(
        _ work: @escaping @Sendable (ClientLoop, CheckedContinuation<Result, any Error>) -> Void
    ) async throws -> Result {
        try await withCheckedThrowingContinuation { done in
            if !inbox.post({ work($0, done) }) { done.resume(throwing: ClientLoop.stopped) }
        }
    }
}
