/// Tells when a storm of TLS handshakes is over: as after a restart, when everybody comes back at once.
///
/// Under way, a handshake holds 30 KiB more than its session will. Of many at once, what they free lies in holes
/// between the sessions that stay, where malloc keeps it for the next ones: 2 000 at once left 58 MB beside the
/// sessions' 30. So a storm's end is the moment for malloc_trim(3), which gives whole pages of such holes back: 34 MB
/// then, in 6 ms, after handshakes that had taken half a second.
struct HandshakeStorm {
    /// Fewer at once leave less than 8 MB, not worth the time.
    static let minimum = 256

    private var underWay = 0
    /// The most at once since the last storm.
    private var peak = 0

    mutating func began() {
        underWay += 1
        peak = max(peak, underWay)
    }

    /// True where all but the last of a storm's handshakes have ended, well or not.
    mutating func ended() -> Bool {
        underWay -= 1
        guard peak >= Self.minimum, underWay <= peak / 8 else { return false }
        peak = underWay
        return true
    }
}
