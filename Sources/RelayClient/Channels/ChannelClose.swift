import Relay

/// Why a channel was closed, or not opened.
public struct ChannelClose: Error, Equatable, Sendable, CustomStringConvertible {
    /// A close code (docs/relay.v1.md), or an HTTP status where the relay or a server rejected the channel.
    public let code: UInt16
    /// For people; may be empty.
    public let reason: String

    public init(_ code: UInt16, _ reason: String = "") {
        self.code = code
        self.reason = reason
    }

    public var description: String { reason.isEmpty ? "\(code)" : "\(code) \(printable(reason))" }

    /// As it stands in a frame.
    var payload: [UInt8] { ChannelFrame.payload(code: code, reason: reason) }
}
