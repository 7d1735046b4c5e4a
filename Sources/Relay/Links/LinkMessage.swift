internal import FoundationEssentials

/// The text messages of a link (docs/links.md): who the neighbour is, then which servers it leads to.
///
///     {"hello":{"relay":"0123456789abcdef","cost":1}}
///     {"routes":[{"server":"box","ports":"*","cost":0,"path":["0123456789abcdef"]}],"gone":["den"]}
struct LinkMessage: Codable {
    struct Hello: Codable {
        var relay: String
        /// Of the link, both ways: whoever dials says it.
        var cost: Int?
    }

    struct Announcement: Codable {
        var server: ServerID
        var ports: String
        var cost: Int
        var path: [String]
    }

    var hello: Hello?
    var routes: [Announcement]?
    var gone: [ServerID]?

    /// Nil for what is none.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard let message = try? JSONDecoder().decode(LinkMessage.self, from: Data(bytes)) else { return nil }
        self = message
    }

    init(hello: Hello) { self.hello = hello }

    private init() {}

    /// A longer one ends the link. Reading one of 64 KiB takes 11 ms, and whoever else is on the loop waits for that.
    static let maximumBytes = 64 << 10
    /// With the longest names, ports and paths they stay below.
    private static let serversPerMessage = 16

    /// News in as many messages as it takes.
    static func messages(_ news: RouteTable.News) -> [LinkMessage] {
        var messages: [LinkMessage] = []
        // What has gone makes room for what has come.
        for start in stride(from: 0, to: news.gone.count, by: serversPerMessage) {
            var message = LinkMessage()
            message.gone = Array(news.gone[start..<min(start + serversPerMessage, news.gone.count)])
            messages.append(message)
        }
        for start in stride(from: 0, to: news.routes.count, by: serversPerMessage) {
            var message = LinkMessage()
            message.routes = news.routes[start..<min(start + serversPerMessage, news.routes.count)].map {
                Announcement(
                    server: $0.server, ports: $0.1.ports.description, cost: $0.1.cost,
                    path: $0.1.path.map(\.description))
            }
            messages.append(message)
        }
        return messages
    }

    var json: [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
        // Strings and numbers can always be written.
        return (try? encoder.encode(self)).map(Array.init) ?? []
    }
}

extension LinkMessage.Announcement {
    /// Nil where a part of it cannot be read.
    var advertisement: RouteTable.Advertisement? {
        let relays = path.compactMap { RelayID($0) }
        guard let ports = PortSet(ports), relays.count == path.count, server.isName else { return nil }
        return RouteTable.Advertisement(ports: ports, cost: cost, path: relays)
    }
}

extension ServerID: Decodable {
    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let number = try? container.decode(Int64.self) {
            self = .number(number)
        } else {
            self = .name(try container.decode(String.self))
        }
    }

    /// Whether a server may be called so.
    var isName: Bool {
        guard case .name(let name) = self else { return true }
        return (1...Self.maximumNameBytes).contains(name.utf8.count)
    }
}
