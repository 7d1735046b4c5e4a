import Testing

@testable import Relay

@Suite struct `Storms of handshakes` {
    /// Handshakes end, so many; at which of the ends was a storm over?
    private func ends(_ count: Int, _ storm: inout HandshakeStorm) -> [Int] {
        (1...count).filter { _ in storm.ended() }
    }

    @Test func `a storm is over once, when an eighth is left`() {
        var storm = HandshakeStorm()
        for count in [800, HandshakeStorm.minimum] {
            for _ in 0..<count { storm.began() }
            let over = ends(count, &storm)
            #expect(over == [count * 7 / 8])
        }
    }

    @Test func `fewer handshakes at once are none, however many there are in all`() {
        var storm = HandshakeStorm()
        for _ in 0..<10 {
            for _ in 1..<HandshakeStorm.minimum { storm.began() }
            let over = ends(HandshakeStorm.minimum - 1, &storm)
            #expect(over == [])
        }
    }

    @Test func `those left over count for the next storm`() {
        var storm = HandshakeStorm()
        for _ in 0..<800 { storm.began() }
        let first = ends(700, &storm)
        for _ in 100..<HandshakeStorm.minimum { storm.began() }
        let second = ends(HandshakeStorm.minimum, &storm)
        #expect(first == [700] && second == [HandshakeStorm.minimum * 7 / 8])
    }
}
