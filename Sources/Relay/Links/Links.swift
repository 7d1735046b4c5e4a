/// The links of an app: which connections they are, and what their neighbours have told.
struct Links {
    enum Phase {
        /// The neighbour has not introduced itself.
        case new
        case known
        /// The neighbour is draining: nothing is opened through it any more.
        case draining
    }

    /// Why servers are left out of a link.
    enum Omission {
        case lacksRight
        case hearsTooMany
        case tellsTooMany
    }

    var table = RouteTable(own: .random())
    private(set) var phases: [ConnectionID: Phase] = [:]
    /// Servers that neighbours have not heard about yet.
    var news: Set<ServerID> = []
    /// Until it is over, what neighbours have told is not passed on.
    var pause: (serial: UInt64, timer: TimerID)?
    /// Servers that they have told of meanwhile.
    var learnt: Set<ServerID> = []
    private var omissions: [ConnectionID: Set<Omission>] = [:]
    /// Those of the configuration, in its order.
    var diallers: [LinkDialler] = []
    var dialled: [ConnectionID: LinkDialler] = [:]

    @inline(__always)
    func contains(_ link: ConnectionID) -> Bool { !phases.isEmpty && phases[link] != nil }

    mutating func set(_ phase: Phase, of link: ConnectionID) { phases[link] = phase }
    mutating func remove(_ link: ConnectionID) -> Bool {
        omissions[link] = nil
        return phases.removeValue(forKey: link) != nil
    }

    /// Whether this is new of the link, and so to be said.
    mutating func isNew(_ omission: Omission, of link: ConnectionID) -> Bool {
        omissions[link, default: []].insert(omission).inserted
    }

    /// Longer metadata would not fit into an `open` with what each relay adds.
    private static let maximumMetadataBytes = 8 << 10

    /// Why an open that has passed the relays of `via` cannot go on.
    func refusal(of route: RouteTable.Route?, _ via: [RelayID], _ metadata: String?) -> App.Rejection? {
        if via.contains(table.own) {
            return App.Rejection(
                code: ChannelReject.badGateway, reason: "the way to the server leads in a circle", error: .unavailable)
        }
        guard route != nil else { return nil }
        if via.count >= RouteTable.maximumHops {
            return App.Rejection(
                code: ChannelReject.badGateway, reason: "the way to the server is longer than 16 relays",
                error: .unavailable)
        }
        guard (metadata?.utf8.count ?? 0) <= Self.maximumMetadataBytes else {
            return App.Rejection(
                code: ChannelReject.limit, reason: "the metadata is longer than 8 KiB, which is too long for a link",
                error: .limit)
        }
        return nil
    }
}
