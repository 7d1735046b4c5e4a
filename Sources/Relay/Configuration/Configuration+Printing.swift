extension Configuration {
    /// The configuration as `relayd serve --print-config` shows it: a configuration file with, behind each value, its
    /// unit or range, whether a reload changes it, and where the value came from. Tokens of listeners are redacted.
    package func printed() -> String {
        var lines: [(text: String, comment: String)] = []
        var section = ""
        for setting in Configuration.settings {
            let parts = setting.name.split(separator: ".", maxSplits: 1)
            let name = String(parts[parts.count - 1])
            let indentation = parts.count == 2 ? "  " : ""
            if parts.count == 2, section != parts[0] { lines.append(("\(parts[0]):", "")) }
            section = parts.count == 2 ? String(parts[0]) : ""
            let values = setting.values(self)
            let comment = self.comment(setting.range, setting.changesLive, setting.name)
            if setting.isList, !values.isEmpty {
                lines.append(("\(indentation)\(name):", comment))
                for value in values { lines.append(("\(indentation)  - \(yamlScalar(value))", "")) }
            } else {
                let value = setting.isList ? "[]" : values.first.map(yamlScalar) ?? "null"
                lines.append(("\(indentation)\(name): \(value)", comment))
            }
        }
        lines.append(("limits:", ""))
        for limit in Limits.descriptors {
            let range = "\(limit.unit.name), \(limit.rangeText)"
            let comment = self.comment(range, limit.changesLive, "limits.\(limit.name)")
            lines.append(("  \(limit.name): \(limit.text(in: limits))", comment))
        }
        let width = lines.lazy.filter { !$0.comment.isEmpty }.map(\.text.count).max() ?? 0
        return lines.map { line in
            guard !line.comment.isEmpty else { return line.text + "\n" }
            let padding = String(repeating: " ", count: max(0, width - line.text.count))
            return "\(line.text)\(padding)  # \(line.comment)\n"
        }.joined()
    }

    private func comment(_ range: String, _ changesLive: Bool, _ name: String) -> String {
        let source = sources[name] ?? .default
        return "\(range); \(changesLive ? "live" : "restart"); from \(source.rawValue)"
    }
}

/// A text as a YAML scalar: plain where that cannot be misread, else in double quotes.
private func yamlScalar(_ text: String) -> String {
    let isPlain = text.unicodeScalars.allSatisfy {
        switch $0 {
        case "a"..."z", "A"..."Z", "0"..."9", "/", ".", "_", "-", ":", "?", "=", "[", "]", "%", "…", "~", "&": true
        default: false
        }
    }
    if isPlain, let first = text.unicodeScalars.first, !"-?:[]%&~".unicodeScalars.contains(first),
        !text.hasSuffix(":"), text != "null"
    {
        return text
    }
    var quoted = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"", "\\": quoted += "\\\(scalar)"
        case _ where scalar.value < 0x20 || scalar.value == 0x7f:
            let digits = String(scalar.value, radix: 16)
            quoted += "\\x" + (digits.count == 1 ? "0" : "") + digits
        default: quoted.unicodeScalars.append(scalar)
        }
    }
    return quoted + "\""
}
