package import Relay

/// Whom a client takes for the relay behind wss://. Several possibilities are tried in turn, each on a connection of
/// its own; the first that is satisfied holds.
package struct Trust: Sendable {
    package var possibilities: [TLSContext.Verification]

    package init(possibilities: [TLSContext.Verification] = [.system]) { self.possibilities = possibilities }
}
