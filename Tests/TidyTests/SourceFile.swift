/// A text file of the repository, as the rules see it.
struct SourceFile: Sendable {
    /// Relative to the repository's root: `Sources/Relay/Daemon.swift`.
    let path: String
    let text: String
    /// Without their newlines. Text behind the last newline is a line as well.
    let lines: [String]

    init(path: String, text: String) {
        self.path = path
        self.text = text
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        if lines.last == "" { lines.removeLast() }
        self.lines = lines
    }

    var isSwift: Bool { path.hasSuffix(".swift") }

    /// The numbers of the lines that `breaks` is true for, from 1.
    func lineNumbers(where breaks: (String) -> Bool) -> [Int] {
        lines.indices.filter { breaks(lines[$0]) }.map { $0 + 1 }
    }

    /// Whether a comment stands on a line, or on one of those so close to it.
    func hasComment(at line: Int, before: Int, after: Int = 0) -> Bool {
        let index = line - 1
        return lines[max(0, index - before)...min(lines.count - 1, index + after)].contains { $0.contains("//") }
    }
}

extension String {
    /// The runs of letters, digits and underscores.
    var words: [Substring] { split { !($0.isLetter || $0.isNumber || $0 == "_") } }

    /// Without blanks at either end.
    var trimmed: Substring {
        let head = drop { $0 == " " }
        return head.lastIndex { $0 != " " }.map { head[...$0] } ?? ""
    }
}
