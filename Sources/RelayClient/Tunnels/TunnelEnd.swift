import Relay

/// Whoever made a `TunnelEnd`.
protocol TunnelEndOwner: AnyObject {
    /// Messages may flow.
    func opened(_ end: TunnelEnd)
    /// It is over and gone; `failure` says why, where it did not end as it should.
    func ended(_ end: TunnelEnd, _ failure: String?)
}

/// A channel whose end is something local, which a subclass knows.
class TunnelEnd: ChannelEnd {
    /// Whose it is, for people.
    final let label: String
    final unowned let owner: any TunnelEndOwner
    final unowned let loop: ClientLoop

    init(
        _ state: ChannelState, number: ChannelNumber, link: Link, label: String, owner: any TunnelEndOwner,
        loop: ClientLoop
    ) {
        self.label = label
        self.owner = owner
        self.loop = loop
        super.init(state, number: number, link: link)
    }
}
