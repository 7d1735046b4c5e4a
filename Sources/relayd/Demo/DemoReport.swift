import RelayClient

/// What happened to the messages of one demo.
struct DemoReport {
    /// One way's numbered messages, as the receiver saw them.
    struct Way {
        var sent = 0
        var received = 0
        /// Arrived with a number below one that came before it; a message that came twice counts here too.
        var reordered = 0
        private var highest = -1
        private var seen: Set<Int> = []

        var lost: Int { sent - seen.count }

        mutating func receive(_ number: Int) {
            received += 1
            if number <= highest || !seen.insert(number).inserted { reordered += 1 }
            seen.insert(number)
            highest = max(highest, number)
        }
    }

    var toServer = Way()
    var toClient = Way()
    /// How many messages the client had sent when the new version was accepted.
    var replacedAfter: Int?
    var versions: (old: Int64, new: Int64) = (0, 0)
    /// What the new version itself counted: messages that it forwarded.
    var forwardedByNewVersion: Int64 = 0
    var refused = 0
    var socketsClosed = 0

    var lost: Int { toServer.lost + toClient.lost }
    var reordered: Int { toServer.reordered + toClient.reordered }
    var isClean: Bool {
        lost == 0 && reordered == 0 && refused == 0 && socketsClosed == 0 && replacedAfter != nil
            && forwardedByNewVersion > 0
    }

    var text: String {
        let replaced =
            replacedAfter.map {
                "\"forward to server\" replaced after message \($0) (version \(versions.old) → \(versions.new)); "
                    + "the new one forwarded \(forwardedByNewVersion)"
            } ?? "\"forward to server\" was not replaced"
        return """
            messages  \(toServer.received) of \(toServer.sent) client → server, \
            \(toClient.received) of \(toClient.sent) server → client
            replaced  \(replaced)
            lost      \(lost)
            reordered \(reordered)
            refused   \(refused)
            closed    \(socketsClosed) sockets
            """
    }

    var json: String {
        func number(_ value: Int) -> JSONValue { .integer(Int64(value)) }
        func way(_ way: Way) -> JSONValue {
            .object(["sent": number(way.sent), "received": number(way.received)])
        }
        return JSONValue.object([
            "clientToServer": way(toServer), "serverToClient": way(toClient),
            "replacedAfter": replacedAfter.map(number) ?? .null, "oldVersion": .integer(versions.old),
            "newVersion": .integer(versions.new), "forwardedByNewVersion": .integer(forwardedByNewVersion),
            "lost": number(lost), "reordered": number(reordered), "refused": number(refused),
            "socketsClosed": number(socketsClosed),
        ]).json()
    }
}
