/// Names one relay (one app of it) among those that are linked: random, new at each start, so that nobody has to give
/// it out, and a relay that was restarted is not taken for the one that it was.
struct RelayID: Hashable, Sendable, CustomStringConvertible {
    /// 16 digits, hexadecimal.
    let description: String

    static func random() -> RelayID { RelayID(known: TextEncoding.hex(SecureRandom.bytes(8))) }

    private init(known text: String) { description = text }

    /// Nil for anything that is none.
    init?(_ text: some StringProtocol) {
        guard text.utf8.count == 16, text.utf8.allSatisfy({ HTTPCharacter.hexadecimal($0) != nil }) else { return nil }
        description = String(text)
    }

    /// The relays that an `open` has passed, as its text has them: separated by commas.
    static func list(_ text: String) -> [RelayID]? {
        guard !text.isEmpty else { return [] }
        let items = text.split(separator: ",", maxSplits: RouteTable.maximumHops, omittingEmptySubsequences: false)
        let relays = items.compactMap { RelayID($0) }
        return relays.count == items.count && relays.count <= RouteTable.maximumHops ? relays : nil
    }
}
