/// The channels of one multiplexed connection: which there are, the frame that is being read, and whose turn it is to
/// send.
///
/// What is sent leaves through the connection's one buffer, first in, first out; so no more than `burst` of data is
/// ever put there before the socket takes it, and the rest waits in the queues of its channels. They take turns of one
/// chunk, and a channel that had nothing waiting goes before those that had (as in RFC 8290 §4.2): a small message
/// waits for a burst and not for the bulk of its neighbours.
final class Multiplexer {
    /// The other end is a relay, which opens channels as clients do and is asked as servers are.
    let isLink: Bool
    /// Whoever dials has the odd numbers on the wire, and here whoever is the relay has the even ones: so a dialler
    /// changes the last bit.
    private let flip: UInt32

    init(isDialled: Bool, isLink: Bool) {
        self.isLink = isLink
        flip = isDialled ? 1 : 0
    }

    /// From a number on the wire to that of a channel here, or back. 0 is the connection itself; 1 is never given.
    @inline(__always)
    func translated(_ number: UInt32) -> ChannelNumber { ChannelNumber(number > 1 ? number ^ flip : number) }

    // What is being read.

    enum Reading {
        /// Between messages, or inside the five bytes of a head.
        case head
        case data
        /// Data for a channel that is gone.
        case ignored
        /// A frame that is gathered, because it is no data.
        case control
    }
    var reading = Reading.head
    var type = ChannelFrameType(rawValue: 0)
    var number = ChannelNumber.connection
    /// Whose data it is.
    // SAFETY: held by `ends`; taken out with it (`remove`).
    var source: Unmanaged<ChannelEnd>?
    /// The bytes of a head that lies across receives.
    private var head: (UInt64, count: Int) = (0, 0)

    // Which channels there are.

    private var ends: [UInt32: ChannelEnd] = [:]
    /// The one that was asked for last, because it often is again.
    // SAFETY: held by `ends`; taken out with it (`remove`).
    private var last: Unmanaged<ChannelEnd>?
    private var lastNumber = ChannelNumber.connection
    /// Channels that are over, of which something still waits to be sent.
    private var drainingCount = 0
    private var lastPeerNumber: UInt32 = 0
    private var lastOwnNumber: UInt32 = 0
    private var lastScriptNumber: UInt32 = 0
    var scriptNumbers = ScriptNumbers()
    /// Opens that wait for the answer of this connection, a server: the oldest first.
    private(set) var openings: [(deadline: UInt64, number: ChannelNumber)] = []

    // Mail between a connection that lives away from its app and the app.

    /// Of messages on their way to the app.
    var unhandledBytes = 0
    /// Of messages of the app that wait here.
    var untakenBytes = 0

    // Whose turn it is.

    /// Those that had nothing waiting and were given little, those that were given more, and those that had their turn
    /// and have more.
    private var sparse = TurnList()
    private var fresh = TurnList()
    private var waiting = TurnList()
    /// Turns of fresh channels since one that waited had its.
    private var freshTurns = 0
    private static let freshTurnsInRow = 3
    private static let sparseBytes = 1 << 10
    private(set) var burst = leastBurst
    /// What the socket takes within `burstMilliseconds`, as measured while something waited, within bounds.
    private var measuredBurst = leastBurst
    /// What the kernel may hold unsent: about a burst. It is told only of large changes.
    private(set) var unsentLimit = leastBurst
    private var windowStart: UInt64 = 0
    private var windowBytes = 0
    /// What it has taken for about `burstMilliseconds`, since when, and what it took in that time before.
    private var pace = (since: UInt64(0), bytes: 0, before: 0)
    /// What the socket has taken since its slowness is being watched.
    var takenBytes = 0

    /// A small message waits for what may be unsent in the kernel, the burst that went beyond it and the one here: 24
    /// KiB, 20 ms at 10 Mbit/s. A socket that takes more in that time is given more.
    static let leastBurst = 8 << 10
    static let mostBurst = 1 << 20
    private static let burstMilliseconds = 6
    private static let windowMilliseconds: UInt64 = 20

    // MARK: Reading

    /// Takes the head of a frame off `payload`, the pieces of one binary message, masked with `key`. False as long as
    /// it is not complete.
    @inline(__always)
    func takeHead(_ payload: inout UnsafeMutableRawBufferPointer, key: inout UInt32) -> Bool {
        guard head.count == 0, payload.count >= ChannelFrame.headLength else { return gatherHead(&payload, &key) }
        let mask = UInt32(littleEndian: key)
        type = ChannelFrameType(rawValue: payload[0] ^ UInt8(truncatingIfNeeded: mask))
        key = Masking.rotated(key, by: 1)
        let masked = payload.loadUnaligned(fromByteOffset: 1, as: UInt32.self)
        number = translated(UInt32(bigEndian: masked ^ key))
        payload = UnsafeMutableRawBufferPointer(rebasing: payload[ChannelFrame.headLength...])
        return true
    }

    private func gatherHead(_ payload: inout UnsafeMutableRawBufferPointer, _ key: inout UInt32) -> Bool {
        while head.count < ChannelFrame.headLength {
            guard let byte = payload.first else { return false }
            head.0 = head.0 << 8 | UInt64(byte ^ UInt8(truncatingIfNeeded: UInt32(littleEndian: key)))
            head.count += 1
            key = Masking.rotated(key, by: 1)
            payload = UnsafeMutableRawBufferPointer(rebasing: payload.dropFirst())
        }
        type = ChannelFrameType(rawValue: UInt8(truncatingIfNeeded: head.0 >> 32))
        number = translated(UInt32(truncatingIfNeeded: head.0))
        head = (0, 0)
        return true
    }

    /// The message is over.
    @inline(__always)
    func endFrame() {
        reading = .head
        head.count = 0
    }

    // MARK: Channels

    /// All that are not over, and those of which something still has to leave.
    var count: Int { ends.count + drainingCount }

    @inline(__always)
    func end(_ number: ChannelNumber) -> ChannelEnd? {
        if lastNumber == number, let last { return last._withUnsafeGuaranteedRef { $0 } }
        guard let found = ends[number.rawValue] else { return nil }
        last = Unmanaged.passUnretained(found)
        lastNumber = number
        return found
    }

    var all: [ChannelEnd] { Array(ends.values) }

    func insert(_ end: ChannelEnd) {
        ends[end.number.rawValue] = end
        if end.number.isScripts { lastScriptNumber = max(lastScriptNumber, end.number.rawValue) }
    }

    func remove(_ end: ChannelEnd) {
        // Held here: it may have been the last to hold it.
        guard let end = ends.removeValue(forKey: end.number.rawValue) else { return }
        if end.number == lastNumber { last = nil }
        if source?.toOpaque() == Unmanaged.passUnretained(end).toOpaque() { source = nil }
        if end.isInTurn { drainingCount += 1 }
    }

    /// The peer uses its numbers in ascending order; false where this one is out of turn.
    func takePeerNumber(_ number: ChannelNumber) -> Bool {
        guard number.isPeers, number.rawValue > lastPeerNumber else { return false }
        lastPeerNumber = number.rawValue
        return true
    }

    /// A number of the relay's own: of those divisible by four. The others that are even are `ScriptNumbers`. Nil where
    /// all have been used.
    func takeOwnNumber() -> ChannelNumber? {
        let (next, overflow) = lastOwnNumber.addingReportingOverflow(4)
        guard !overflow else { return nil }
        lastOwnNumber = next
        return ChannelNumber(next)
    }

    /// Whether a channel of this number was there once.
    func isPast(_ number: ChannelNumber) -> Bool {
        if number.isPeers { return number.rawValue <= lastPeerNumber }
        return number.rawValue <= (number.isScripts ? lastScriptNumber : lastOwnNumber)
    }

    // MARK: Opens that wait

    func wait(for number: ChannelNumber, until deadline: UInt64) { openings.append((deadline, number)) }

    /// Takes out those that are overdue. Those that have been answered meanwhile are taken out on the way.
    func takeOverdue(at now: UInt64) -> [ChannelEnd] {
        var overdue: [ChannelEnd] = []
        var index = 0
        while index < openings.count {
            let end = ends[openings[index].number.rawValue]
            if let end, end.phase == .opening {
                guard openings[index].deadline <= now else { break }
                overdue.append(end)
            }
            index += 1
        }
        openings.removeFirst(index)
        return overdue
    }

    /// Answered opens are forgotten before they are overdue, so that the list is as long as what really waits.
    func pruneOpenings() {
        guard openings.count > 2 * count + 16 else { return }
        openings.removeAll { ends[$0.number.rawValue]?.phase != .opening }
    }

    // MARK: Turns

    @inline(__always)
    var hasBacklog: Bool { waiting.first != nil || fresh.first != nil || sparse.first != nil }

    /// Bytes that wait in the queues of channels.
    private(set) var backlogBytes = 0

    /// `count` bytes have been added to the queue of `end`.
    func queued(_ count: Int, of end: ChannelEnd) {
        backlogBytes += count
        guard !end.isInTurn else { return }
        end.isInTurn = true
        if count <= Self.sparseBytes { sparse.append(end) } else { fresh.append(end) }
        if end.phase == .over { drainingCount += 1 }
    }

    /// Moves the chunk whose turn it is to `output`, unless that holds a burst, of which `encrypted` bytes are further
    /// already, or nothing waits. Whose it was.
    func giveTurn(_ output: inout OutboundBuffer, encrypted: Int) -> ChannelEnd? {
        guard output.byteCount + encrypted < burst, let end = takeNext() else { return nil }
        let before = output.byteCount
        output.takeFirst(of: &end.queue)
        backlogBytes -= output.byteCount - before
        if end.queue.isEmpty {
            end.isInTurn = false
            if end.phase == .over { drainingCount -= 1 }
        } else {
            waiting.append(end)
        }
        return end
    }

    private func takeNext() -> ChannelEnd? {
        if freshTurns < Self.freshTurnsInRow || waiting.first == nil, let end = sparse.popFirst() ?? fresh.popFirst() {
            freshTurns += 1
            return end
        }
        freshTurns = 0
        return waiting.popFirst()
    }

    /// The connection ends: nothing that waits will leave.
    func removeAll(to pool: ChunkPool) {
        while let end = takeNext() {
            end.queue.removeAll(to: pool)
            end.isInTurn = false
        }
        ends = [:]
        last = nil
        source = nil
        drainingCount = 0
        backlogBytes = 0
    }

    /// The socket has taken `count` bytes, all that it was given or not; `more` waits. True where `unsentLimit` has
    /// changed.
    ///
    /// What is taken at once shows that what came before has left the kernel meanwhile: the next burst may be up to
    /// twice as large, where that rate bears it. What takes its time is measured.
    func took(_ count: Int, all: Bool, more: Bool, at now: UInt64) -> Bool {
        takenBytes &+= count
        burst = max(measuredBurst, all ? min(burst &* 2, shown(at: now), Self.mostBurst) : 0)
        pace.bytes &+= count
        measure(count, more: more, at: now)
        let mayRise = burst >= 4 &* unsentLimit, mustFall = !all && burst < unsentLimit / 2
        guard mayRise || mustFall else { return false }
        unsentLimit = burst
        return true
    }

    /// What it takes within `burstMilliseconds`, going by what it took before. Not by what it takes in less: that may
    /// be what the kernel has room for, and not what leaves.
    private func shown(at now: UInt64) -> Int {
        let elapsed = now &- pace.since
        if elapsed >= Self.burstMilliseconds {
            pace = (now, 0, pace.bytes &* Self.burstMilliseconds / Int(elapsed))
        }
        return max(pace.before, pace.bytes)
    }

    /// What is taken while more waits is all that the socket can take.
    private func measure(_ count: Int, more: Bool, at now: UInt64) {
        guard more else { return windowStart = 0 }
        guard windowStart > 0 else {
            windowStart = now
            windowBytes = 0
            return
        }
        windowBytes &+= count
        let elapsed = now &- windowStart
        guard elapsed >= Self.windowMilliseconds else { return }
        measuredBurst = min(max(windowBytes &* Self.burstMilliseconds / Int(elapsed), Self.leastBurst), Self.mostBurst)
        burst = measuredBurst
        windowStart = now
        windowBytes = 0
    }
}

/// The numbers of channels that scripts open: even, and not divisible by four. The app gives them, which may be on
/// another loop than the connection.
struct ScriptNumbers {
    private var next: UInt32 = 2

    mutating func take() -> ChannelNumber? {
        guard next < .max - 4 else { return nil }
        defer { next += 4 }
        return ChannelNumber(next)
    }
}

/// Channels that wait for their turn, in order; linked through `ChannelEnd.next`.
private struct TurnList {
    private(set) var first: ChannelEnd?
    private var last: ChannelEnd?

    mutating func append(_ end: ChannelEnd) {
        end.next = nil
        if let last { last.next = end } else { first = end }
        last = end
    }

    mutating func popFirst() -> ChannelEnd? {
        guard let end = first else { return nil }
        first = end.next
        end.next = nil
        if first == nil { last = nil }
        return end
    }
}
