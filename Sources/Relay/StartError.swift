/// Why the relay does not start: one sentence that names what failed and why.
package struct StartError: Error, CustomStringConvertible, Sendable {
    package let description: String
    package init(_ description: String) { self.description = description }
}
