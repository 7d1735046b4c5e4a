/// A named function that a connection can invoke: one immutable entry of an `InstructionSet`.
package final class Instruction: Sendable {
    package let name: String
    /// Counts the accepted definitions of this name, from 1.
    package let version: Int
    package let isPublic: Bool
    package let summary: String
    /// The script that defined it; nil where it came by `add instruction`.
    package let script: String?
    package let generation: Int
    package let function: FunctionReference

    package init(
        name: String, version: Int, isPublic: Bool, summary: String, script: String?, generation: Int,
        function: FunctionReference
    ) {
        self.name = name
        self.version = version
        self.isPublic = isPublic
        self.summary = summary
        self.script = script
        self.generation = generation
        self.function = function
    }
}
