/// Why a configuration was refused: one sentence for the operator, naming the setting, what it may be and, for a
/// file, the place (`relayd.yaml:12: …`). Nothing of a refused configuration is in force.
package struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
    package let message: String
    package init(_ message: String) { self.message = message }
    package var description: String { message }

    /// The same refusal with the place that caused it in front.
    package func at(_ place: String) -> ConfigurationError { ConfigurationError("\(place): \(message)") }
}
