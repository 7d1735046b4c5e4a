/// Why a WebSocket connection was closed: the status code of a close frame (RFC 6455 §7.4).
///
/// This file is the one registry of close codes: what the relay sends, what clients make of it, and what
/// `relayd explain` prints.
package struct CloseCode: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    package let rawValue: UInt16

    package init(rawValue: UInt16) { self.rawValue = rawValue }
    package init(_ rawValue: UInt16) { self.rawValue = rawValue }

    // RFC 6455 §7.4.1.
    package static var normal: CloseCode { CloseCode(1000) }
    package static var goingAway: CloseCode { CloseCode(1001) }
    package static var protocolError: CloseCode { CloseCode(1002) }
    package static var unsupportedData: CloseCode { CloseCode(1003) }
    package static var noStatus: CloseCode { CloseCode(1005) }
    package static var abnormalClosure: CloseCode { CloseCode(1006) }
    package static var invalidPayload: CloseCode { CloseCode(1007) }
    package static var policyViolation: CloseCode { CloseCode(1008) }
    package static var messageTooBig: CloseCode { CloseCode(1009) }
    package static var mandatoryExtension: CloseCode { CloseCode(1010) }
    package static var internalError: CloseCode { CloseCode(1011) }
    package static var tlsHandshake: CloseCode { CloseCode(1015) }

    // Registered later, at IANA's "WebSocket Close Code Number Registry".
    package static var serviceRestart: CloseCode { CloseCode(1012) }
    package static var tryAgainLater: CloseCode { CloseCode(1013) }
    package static var badGateway: CloseCode { CloseCode(1014) }

    // Ours (DESIGN §6), out of the range that RFC 6455 §7.4.2 leaves to applications.
    package static var unauthorized: CloseCode { CloseCode(4001) }
    package static var credentialRevoked: CloseCode { CloseCode(4002) }
    package static var slowConsumer: CloseCode { CloseCode(4003) }
    package static var serverGone: CloseCode { CloseCode(4004) }
    package static var replaced: CloseCode { CloseCode(4005) }
    package static var limit: CloseCode { CloseCode(4006) }
    package static var kicked: CloseCode { CloseCode(4007) }
    package static var idle: CloseCode { CloseCode(4008) }

    /// Whether a close frame may carry this code: 1000–1003, 1007–1014 and 3000–4999. The rest is reserved, stands for
    /// the absence of a frame (1005, 1006, 1015), or is no code at all (RFC 6455 §7.4.2).
    package var isValidOnWire: Bool {
        switch rawValue {
        case 1000...1003, 1007...1014, 3000...4999: true
        default: false
        }
    }

    /// A short name, as in logs: `going away`.
    package var name: String { entry?.name ?? unregisteredName }

    /// What it means and what to do about it, for `relayd explain`.
    package var explanation: String {
        entry?.explanation ?? "No meaning of this code is known to the relay; the other side chose it."
    }

    /// Whether a client that was closed with this code should connect again (after a pause that grows). A code that
    /// nobody registered says nothing, so trying again is right.
    package var shouldReconnect: Bool { entry?.shouldReconnect ?? true }

    package var description: String { "\(rawValue) (\(name))" }

    /// Every code that has a meaning here, in ascending order.
    package static let all: [CloseCode] = registry.map(\.code)

    private var entry: Entry? { Self.registry.first { $0.code == self } }

    private var unregisteredName: String {
        switch rawValue {
        case 3000...3999: "registered elsewhere"
        case 4000...4999: "private"
        default: "invalid"
        }
    }
}

extension CloseCode {
    private struct Entry: Sendable {
        let code: CloseCode
        let name: String
        let shouldReconnect: Bool
        let explanation: String
    }

    private static let registry: [Entry] = [
        Entry(
            code: .normal, name: "normal", shouldReconnect: false,
            explanation: "The purpose of the connection is fulfilled; one side is done."),
        Entry(
            code: .goingAway, name: "going away", shouldReconnect: true,
            explanation: "One side leaves: a page was navigated away from, or an end point stops."),
        Entry(
            code: .protocolError, name: "protocol error", shouldReconnect: false,
            explanation: "The peer sent a frame that breaks RFC 6455; the close reason says which rule."),
        Entry(
            code: .unsupportedData, name: "unsupported data", shouldReconnect: false,
            explanation: "A kind of message that this end does not take, such as binary where text is understood."),
        Entry(
            code: .noStatus, name: "no status", shouldReconnect: true,
            explanation: "The close frame carried no code. Never sent; it is what the end without a code is called."),
        Entry(
            code: .abnormalClosure, name: "abnormal closure", shouldReconnect: true,
            explanation: "The connection ended without a close frame. Never sent; look at the network between."),
        Entry(
            code: .invalidPayload, name: "invalid payload", shouldReconnect: false,
            explanation: "A text message or close reason was not valid UTF-8. Send bytes as binary messages."),
        Entry(
            code: .policyViolation, name: "policy violation", shouldReconnect: false,
            explanation: "A message broke a rule of this end for which there is no better code."),
        Entry(
            code: .messageTooBig, name: "message too big", shouldReconnect: false,
            explanation: "A message, or the number of its fragments, exceeds `messageBytes`. Send less at once, or "
                + "raise --limit messageBytes=."),
        Entry(
            code: .mandatoryExtension, name: "mandatory extension", shouldReconnect: false,
            explanation: "The client needs an extension that the server did not agree to."),
        Entry(
            code: .internalError, name: "internal error", shouldReconnect: true,
            explanation: "The server met a condition that it did not expect. The relay's log says more."),
        Entry(
            code: .serviceRestart, name: "service restart", shouldReconnect: true,
            explanation: "The relay is draining or restarting. Connect again, after a random pause."),
        Entry(
            code: .tryAgainLater, name: "try again later", shouldReconnect: true,
            explanation: "The relay refuses load for now. Connect again, after a longer pause each time."),
        Entry(
            code: .badGateway, name: "bad gateway", shouldReconnect: true,
            explanation: "What stands behind the relay answered badly, or could not be reached."),
        Entry(
            code: .tlsHandshake, name: "TLS handshake", shouldReconnect: false,
            explanation: "The TLS handshake failed. Never sent; check certificate, host name and TLS versions."),
        Entry(
            code: .unauthorized, name: "unauthorized", shouldReconnect: false,
            explanation: "The credential is missing, unknown, expired or not for this. Present another one."),
        Entry(
            code: .credentialRevoked, name: "credential revoked", shouldReconnect: false,
            explanation: "The credential that opened this connection was revoked or has expired. Get another one."),
        Entry(
            code: .slowConsumer, name: "slow consumer", shouldReconnect: true,
            explanation: "Output waited above `outboundHighBytes` for longer than `slowConsumerDeadline`. Read faster, "
                + "or send less to this connection."),
        Entry(
            code: .serverGone, name: "server gone", shouldReconnect: true,
            explanation: "The server of this channel, or the other end of this pipe, has left the relay. It may come "
                + "back."),
        Entry(
            code: .replaced, name: "replaced", shouldReconnect: false,
            explanation: "A newer connection registered the same server id. Reconnecting would replace it in turn."),
        Entry(
            code: .limit, name: "limit", shouldReconnect: true,
            explanation: "A limit of the relay was reached; the close reason names it. `relayd serve --print-config` "
                + "shows all limits."),
        Entry(
            code: .kicked, name: "kicked", shouldReconnect: false,
            explanation: "An operator or a script closed this connection."),
        Entry(
            code: .idle, name: "idle", shouldReconnect: true,
            explanation: "Nothing, not even a pong, came for `idleTimeout`. Answer pings, or send now and then."),
    ]
}
