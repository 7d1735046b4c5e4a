import Glibc
import RelayClient

/// A server and a client that tunnel numbered messages to each other through a relay, while an operator replaces the
/// instruction that carries half of them.
struct DemoTraffic {
    /// U+001F, the tunnel's delimiter.
    private static let delimiter: Character = "\u{1F}"
    private static let port = 7
    /// One message each way in so long: some hundreds a second.
    private static let interval = Duration.milliseconds(5)
    /// How long the last messages may take.
    private static let patience = Duration.seconds(10)

    private let operatorConnection: RelayConnection
    private let server: RelayConnection
    private let client: RelayConnection
    private let credential: String
    private let serverID: Int64
    private let channel: Int
    private var report = DemoReport()

    /// Adds the six instructions and connects a client to a server through them.
    init(url: RelayURL, trust: Trust, credential: String) throws(ClientFailure) {
        self.credential = credential
        operatorConnection = try RelayConnection(to: url, trust: trust)
        for (name, body, isPublic) in TunnelInstructions.all {
            try Self.add(name, body, isPublic: isPublic, over: operatorConnection, credential)
        }
        _ = try operatorConnection.request(
            "invoke", .object(["instruction": .string("initialize"), "parameters": .array([])]), credential: credential)

        server = try RelayConnection(to: url, trust: trust)
        // These two speak as node-livecode's clients do, without ids: the handlers' own messages are the answers.
        try server.send(RelayConnection.requestText("create server credential", .array([])))
        let answer = try Self.text(from: server, "create server credential")
        let parts = answer.split(separator: " ")
        guard parts.count == 2, let id = Int64(parts[0]) else { throw Self.unexpected(answer) }
        serverID = id
        try server.send(
            RelayConnection.requestText("install server", .array([.integer(id), .string(String(parts[1]))])))
        try Self.expectDone(server, "install server")

        client = try RelayConnection(to: url, trust: trust)
        try client.send(
            RelayConnection.requestText("connect to server", .array([.integer(id), .integer(Int64(Self.port))])))
        try Self.expectDone(client, "connect to server")
        let announcement = try Self.text(from: server, "connect to server")
        let prefix = "connected:atPort:for: "
        guard announcement.hasPrefix(prefix) else { throw Self.unexpected(announcement) }
        let fields = announcement.dropFirst(prefix.count).split(separator: Self.delimiter)
        guard fields.count == 3, let channel = Int(fields[0]) else { throw Self.unexpected(announcement) }
        self.channel = channel
    }

    /// Sends for `duration`, waits for what is still under way, and tells what became of it.
    mutating func run(for duration: Duration) throws(ClientFailure) -> DemoReport {
        do {
            try send(for: duration)
            let last = Deadline.after(Self.patience)
            while report.lost > 0, !last.hasPassed, report.socketsClosed == 0 {
                receive(until: .after(.milliseconds(50)))
            }
            if report.socketsClosed == 0 { try askNewVersion() }
            // One more look: an answer "0", or a close, may have come after the last message.
            receive(until: .after(.milliseconds(50)))
        } catch {
            // A socket that broke is a result; an instruction that was refused is a reason to stop.
            guard error.kind == .unreachable else { throw error }
            report.socketsClosed = max(1, report.socketsClosed)
        }
        for connection in [client, server, operatorConnection] { connection.close() }
        return report
    }

    private mutating func send(for duration: Duration) throws(ClientFailure) {
        let end = Deadline.after(duration)
        let change = Deadline.after(duration / 2)
        while !end.hasPassed, report.socketsClosed == 0 {
            let next = Deadline.after(Self.interval)
            try sendOne()
            if report.replacedAfter == nil, change.hasPassed { try replace() }
            receive(until: next)
        }
    }

    // MARK: Sending

    private mutating func sendOne() throws(ClientFailure) {
        try client.send(
            RelayConnection.requestText(
                "forward to server", .array([.integer(Int64(channel)), .string("\(report.toServer.sent)")])))
        report.toServer.sent += 1
        try server.send(
            RelayConnection.requestText(
                "forward to client", .array([.integer(Int64(channel)), .string("\(report.toClient.sent)")])))
        report.toClient.sent += 1
    }

    /// Replaces `forward to server` while messages are under way: more are sent right before and after the change.
    private mutating func replace() throws(ClientFailure) {
        let before = try version()
        for _ in 0..<20 { try sendOne() }
        let added = try Self.add(
            "forward to server", Self.countingForwardToServer, isPublic: true, over: operatorConnection, credential)
        report.replacedAfter = report.toServer.sent
        report.versions = (before, added["version"]?.integer ?? 0)
        for _ in 0..<20 { try sendOne() }
    }

    /// What the new version does more than the old one: it counts what it forwards.
    static let counter = "  forwardedByNewVersion = (forwardedByNewVersion or 0) + 1\n"
    static let countingForwardToServer = TunnelInstructions.forwardToServer.replacing(
        "  server:send(", with: counter + "  server:send(", maxReplacements: 1)

    private func version() throws(ClientFailure) -> Int64 {
        let all = try operatorConnection.request("instructions", .object([:]), credential: credential).array ?? []
        return all.first { $0["instruction"]?.string == "forward to server" }?["version"]?.integer ?? 0
    }

    private mutating func askNewVersion() throws(ClientFailure) {
        let count = try operatorConnection.request(
            "eval", .object(["body": .string("return forwardedByNewVersion or 0")]), credential: credential)
        report.forwardedByNewVersion = count.integer ?? 0
    }

    @discardableResult
    private static func add(
        _ name: String, _ body: String, isPublic: Bool, over connection: RelayConnection, _ credential: String
    ) throws(ClientFailure) -> JSONValue {
        try connection.request(
            "add instruction",
            .object(["instructionToAdd": .string(name), "body": .string(body), "public": .bool(isPublic)]),
            credential: credential)
    }

    // MARK: Receiving

    /// Takes what both ends receive until the deadline.
    private mutating func receive(until deadline: Deadline) {
        repeat {
            drain(server, isServer: true)
            drain(client, isServer: false)
            guard report.socketsClosed == 0 else { return }
            var descriptors = [server, client].map {
                pollfd(fd: $0.fileDescriptor, events: Int16(POLLIN), revents: 0)
            }
            _ = poll(&descriptors, nfds_t(descriptors.count), deadline.pollMilliseconds)
        } while !deadline.hasPassed
    }

    private mutating func drain(_ connection: RelayConnection, isServer: Bool) {
        while true {
            switch connection.receive(until: .now) {
            case .timedOut: return
            case .closed:
                report.socketsClosed += 1
                return
            case .message(.binary): report.refused += 1
            case .message(.text(let text)): take(text, isServer: isServer)
            }
        }
    }

    private mutating func take(_ text: String, isServer: Bool) {
        if text == "1" { return }
        let prefix = "from:data: "
        let fields = text.dropFirst(prefix.count).split(separator: Self.delimiter)
        // A server hears from a channel, a client from a server.
        let from = isServer ? "\(channel)" : "\(serverID)"
        guard text.hasPrefix(prefix), fields.count == 2, fields[0] == from, let number = Int(fields[1]) else {
            report.refused += 1
            return
        }
        if isServer { report.toServer.receive(number) } else { report.toClient.receive(number) }
    }

    private static func text(
        from connection: RelayConnection, _ instruction: String
    ) throws(ClientFailure) -> String {
        switch connection.receive(within: patience) {
        case .message(.text(let text)): return text
        case .message(.binary): throw .refused("\"\(instruction)\" was answered with a binary message.")
        case .timedOut: throw .refused("\"\(instruction)\" was not answered within 10 s.")
        case .closed(let failure): throw failure
        }
    }

    private static func expectDone(_ connection: RelayConnection, _ instruction: String) throws(ClientFailure) {
        let answer = try text(from: connection, instruction)
        guard answer == "1" else { throw .refused("\"\(instruction)\" was answered with \"\(printable(answer))\".") }
    }

    private static func unexpected(_ answer: String) -> ClientFailure {
        .refused("The relay answered with something that the tunnel does not say: \"\(printable(answer))\".")
    }
}
