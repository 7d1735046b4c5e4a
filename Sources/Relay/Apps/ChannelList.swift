/// The channels of an app, for those who ask. It holds none of them: a record goes with the two ends.
final class ChannelList {
    private struct Entry {
        weak var record: ChannelRecord?
    }
    private var entries: [Entry] = []
    private var pruneAt = 64

    func append(_ record: ChannelRecord) {
        if entries.count >= pruneAt {
            entries.removeAll { $0.record == nil }
            // Doubling, so that looking for those that are gone costs a constant for each that comes.
            pruneAt = max(64, 2 * entries.count)
        }
        entries.append(Entry(record: record))
    }

    /// Those that are there, the oldest first.
    var all: [ChannelRecord] { entries.compactMap(\.record) }
}
