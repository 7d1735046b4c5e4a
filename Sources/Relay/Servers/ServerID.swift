/// What a server is installed under: a name (`box`) or a number (`0`). A name of digits is a name: `0` is not `"0"`.
package enum ServerID: Hashable, Sendable, CustomStringConvertible {
    case name(String)
    case number(Int64)

    /// A longer name is none.
    static let maximumNameBytes = 255

    package var description: String {
        switch self {
        case .name(let name): name
        case .number(let number): String(number)
        }
    }
}

extension ServerID {
    package static func == (a: ServerID, b: ServerID) -> Bool {
        switch (a, b) {
        case (.name(let a), .name(let b)): VerbatimText(a) == VerbatimText(b)
        case (.number(let a), .number(let b)): a == b
        case (.name, .number), (.number, .name): false
        }
    }

    package func hash(into hasher: inout Hasher) {
        switch self {
        case .name(let name): hasher.combine(VerbatimText(name))
        case .number(let number): hasher.combine(number)
        }
    }

    /// Appends the id as JSON: a string or a number.
    package func write(into json: inout [UInt8]) {
        switch self {
        case .name(let name): JSONString.write(name, into: &json)
        case .number(let number): json.append(contentsOf: String(number).utf8)
        }
    }
}

/// What `relay.install` takes beside the id and the connection.
package struct ServerOptions: Sendable {
    /// Take the id over from the connection that holds it, which is closed with 4005. Otherwise a taken id is refused.
    package var replaces: Bool = false
    /// The ports that the server offers; nil: every port.
    package var ports: PortSet?
    package init(replaces: Bool = false, ports: PortSet? = nil) {
        self.replaces = replaces
        self.ports = ports
    }
}
