import Relay
import Yams

/// The configuration file: YAML with the names that `--print-config` shows, each at most once and none that does not
/// exist. Whatever is wrong is told with the file's name and the line.
enum ConfigurationFile {
    static let maximumBytes = 1 << 20

    /// Reads `path` into `configuration`; on an error `configuration` is useless and must be dropped.
    static func read(_ path: String, into configuration: inout Configuration) throws(ConfigurationError) {
        let bytes: [UInt8]
        do { bytes = try readFile(path, maximumBytes: maximumBytes) } catch {
            throw ConfigurationError("cannot read the configuration file \(error).")
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ConfigurationError("cannot read the configuration file \(path): not UTF-8 text.")
        }
        try apply(text, path: path, to: &configuration)
    }

    static func apply(
        _ text: String, path: String, to configuration: inout Configuration
    ) throws(ConfigurationError) {
        guard let root = try compose(text, path) else { return }
        guard case .mapping(let mapping) = root else {
            if case .scalar(let scalar) = root, isNull(scalar) { return }
            throw ConfigurationError("the file must hold names with values, as in `loops: 2`.").at(place(path, root))
        }
        for (key, value) in mapping {
            let name = try self.name(key, path)
            let isSection = Configuration.settings.contains { $0.name.hasPrefix(name + ".") }
            if name == "limits" {
                for (name, value) in try members(of: value, name, path) {
                    let text = try scalar(value, of: "limits.\(name.text)", path)
                    try located(name.node, path) { () throws(ConfigurationError) in
                        try configuration.setLimit(name.text, to: text, from: .file)
                    }
                }
            } else if name == "settings", case .mapping = value {
                var texts: [String] = []
                for (member, value) in try members(of: value, name, path) {
                    texts.append("\(member.text)=\(try scalar(value, of: "settings.\(member.text)", path))")
                    try located(member.node, path) { () throws(ConfigurationError) in
                        try configuration.set(name, to: texts, from: .file)
                    }
                }
            } else if isSection {
                for (member, value) in try members(of: value, name, path) {
                    try set("\(name).\(member.text)", member.node, value, path, &configuration)
                }
            } else if name.contains(".") {
                throw ConfigurationError("write \"\(name)\" as a section: \(name.split(separator: ".")[0]):")
                    .at(place(path, key))
            } else {
                try set(name, key, value, path, &configuration)
            }
        }
    }

    // MARK: Nodes

    private static func compose(_ text: String, _ path: String) throws(ConfigurationError) -> Node? {
        do { return try Yams.compose(yaml: text) } catch {
            guard let error = error as? YamlError else { throw ConfigurationError("\(path): cannot be parsed.") }
            throw explain(error, path)
        }
    }

    private static func explain(_ error: YamlError, _ path: String) -> ConfigurationError {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            return ConfigurationError("\(problem).").at("\(path):\(mark.line)")
        case .reader(let problem, _, _, _):
            return ConfigurationError("\(path): \(problem).")
        case .duplicatedKeysInMapping(let duplicates, let context):
            let names = duplicates.map { "\"\($0)\"" }.joined(separator: ", ")
            return ConfigurationError("\(names) is there twice.").at("\(path):\(context.mark.line)")
        default:
            return ConfigurationError("\(path): cannot be parsed.")
        }
    }

    private struct Name {
        let text: String
        let node: Node
    }

    private static func set(
        _ name: String, _ key: Node, _ value: Node, _ path: String, _ configuration: inout Configuration
    ) throws(ConfigurationError) {
        let texts: [String]
        let setting = Configuration.settings.first { $0.name == name }
        if case .sequence(let items) = value, setting?.isList ?? true {
            var all: [String] = []
            for item in items {
                let text = try scalar(item, of: name, path)
                // By itself first, so that the error names the item's line.
                var trial = configuration
                try located(item, path) { () throws(ConfigurationError) in
                    try trial.set(name, to: [text], from: .file)
                }
                all.append(text)
            }
            texts = all
        } else {
            // A list of one may be written without its dash.
            texts = setting == nil ? [] : [try scalar(value, of: name, path)]
        }
        try located(key, path) { () throws(ConfigurationError) in try configuration.set(name, to: texts, from: .file) }
    }

    private static func members(
        of node: Node, _ name: String, _ path: String
    ) throws(ConfigurationError) -> [(name: Name, value: Node)] {
        guard case .mapping(let mapping) = node else {
            if case .scalar(let scalar) = node, isNull(scalar) { return [] }
            throw ConfigurationError("\(name) must be a section of names with values.").at(place(path, node))
        }
        var result: [(Name, Node)] = []
        for (key, value) in mapping { result.append((Name(text: try self.name(key, path), node: key), value)) }
        return result
    }

    private static func name(_ key: Node, _ path: String) throws(ConfigurationError) -> String {
        guard case .scalar(let scalar) = key else {
            throw ConfigurationError("a name must be a plain word.").at(place(path, key))
        }
        return scalar.string
    }

    private static func scalar(_ node: Node, of name: String, _ path: String) throws(ConfigurationError) -> String {
        guard case .scalar(let scalar) = node else {
            let kind = if case .sequence = node { "a list" } else { "a section" }
            throw ConfigurationError("\(name) must be one value, not \(kind).").at(place(path, node))
        }
        guard !isNull(scalar) else {
            throw ConfigurationError("\(name) has no value; leave the line out for the default.")
                .at(place(path, node))
        }
        return scalar.string
    }

    private static func isNull(_ scalar: Node.Scalar) -> Bool {
        scalar.style == .plain && ["", "~", "null"].contains(scalar.string)
    }

    private static func place(_ path: String, _ node: Node) -> String {
        node.mark.map { "\(path):\($0.line)" } ?? path
    }

    private static func located(
        _ node: Node, _ path: String, _ body: () throws(ConfigurationError) -> Void
    ) throws(ConfigurationError) {
        do { try body() } catch { throw error.at(place(path, node)) }
    }
}
