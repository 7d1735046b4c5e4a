/// The connections and listeners of one loop, by the token that completions carry. A slot that is used again has a new
/// generation, so a completion that was under way for its former user finds nobody.
final class ConnectionTable {
    private struct Slot {
        var connection: Connection?
        var generation: UInt32
    }

    private var slots: [Slot] = []
    private var free: [Int32] = []
    private var listeners: [Listener] = []
    private(set) var count = 0

    /// The connection that a token names, if it is still there.
    @inline(__always)
    subscript(_ token: IOToken) -> Connection? {
        let index = token.index
        guard index < slots.count, let connection = slots[index].connection,
            connection.handle.token == token
        else { return nil }
        return connection
    }

    func listener(_ token: IOToken) -> Listener? {
        token.index < listeners.count ? listeners[token.index] : nil
    }

    /// Gives the connection a slot and the token that names it.
    func insert(_ connection: Connection) {
        count += 1
        let index: Int
        if let reused = free.popLast() {
            index = Int(reused)
            slots[index].generation &+= 1
            slots[index].connection = connection
        } else {
            index = slots.count
            slots.append(Slot(connection: connection, generation: 0))
        }
        connection.handle.token = IOToken(slot: index, generation: slots[index].generation)
    }

    func remove(_ connection: Connection) {
        let index = connection.handle.token.index
        guard index < slots.count, slots[index].connection === connection else { return }
        slots[index].connection = nil
        free.append(Int32(index))
        count -= 1
    }

    func insert(_ listener: Listener) {
        listener.handle.token = IOToken(.listener, index: listeners.count)
        listeners.append(listener)
    }

    /// Every connection; a copy, so that closing them while going through is fine.
    var all: [Connection] { slots.compactMap(\.connection) }
}
