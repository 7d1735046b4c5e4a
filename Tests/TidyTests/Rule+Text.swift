// Rules about every text, whatever language it is in.
extension Rule {
    static let text: [Rule] = [
        Rule(
            "no tabs", bad: [("a.md", "a\tb\n")], good: ("a.md", "a b\n"), concerns: { _ in true },
            violations: { $0.lineNumbers { $0.contains("\t") } }),
        Rule(
            "no blanks at the end of a line", bad: [("a.lua", "a \n"), ("a.lua", "a\n  \nb\n"), ("a.lua", "a\r\n")],
            good: ("a.lua", "  a\n\nb\n"), concerns: { _ in true },
            // As scalars, since "\r\n" is one character.
            violations: { file in
                let lines = file.text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false)
                return lines.indices.filter { [" ", "\r"].contains(lines[$0].last) }.map { $0 + 1 }
            }),
        Rule(
            "a file ends with one newline", bad: [("a.c", "a"), ("a.c", "a\n\n"), ("a.c", "\n")],
            good: ("a.c", "a\n"), concerns: { _ in true },
            violations: { file in
                let isFine = file.text.hasSuffix("\n") && !file.text.hasSuffix("\n\n") && file.text != "\n"
                return isFine || file.text.isEmpty ? [] : [file.lines.count]
            }),
        Rule(
            "nothing is left to do",
            // In pieces, so that this file obeys.
            bad: [("a.swift", "// TO" + "DO: more\n"), ("a.py", "# FIX" + "ME\n"), ("a.md", "X" + "XX\n")],
            good: ("a.c", "mkstemp(\"XXXXXX\"); /* \\uXXXX */\n"), concerns: { _ in true },
            violations: { file in
                file.lineNumbers { line in
                    line.words.contains { ["TO" + "DO", "FIX" + "ME", "X" + "XX"].contains(String($0)) }
                }
            }),
        Rule(
            "a line has at most 120 columns",
            bad: [("Sources/a.c", String(repeating: "é", count: 121) + "\n")],
            good: ("Sources/a.c", String(repeating: "é", count: 120) + "\n"),
            concerns: isSource,
            violations: { $0.lineNumbers { $0.count > 120 } }),
        Rule(
            "a file has at most \(maximumLines) lines",
            bad: [("Sources/a.c", String(repeating: "a\n", count: maximumLines + 1))],
            good: ("Sources/a.c", String(repeating: "a\n", count: maximumLines)), concerns: isSource,
            violations: { file in
                let most = longerFiles[file.path] ?? maximumLines
                return file.lines.count > most ? [most + 1] : []
            }),
        Rule(
            "a bash script stops at the first command that fails",
            bad: [
                ("dev/a", "#!/usr/bin/env bash\nls\n"), ("dev/a", "#!/bin/sh\nset -euo pipefail\n"),
                ("dev/a", "#!/usr/bin/env bash\nls\nset -euo pipefail\n"),
            ],
            good: ("dev/a", "#!/usr/bin/env bash\n# What it does.\nset -euo pipefail\nls\n"),
            concerns: { $0.hasPrefix("dev/") && !$0.contains(".") },
            violations: { file in
                let first = file.lines.first { !$0.hasPrefix("#") && !$0.isEmpty }
                return file.lines.first == "#!/usr/bin/env bash" && first == "set -euo pipefail" ? [] : [1]
            }),
    ]

    private static let maximumLines = 420
    /// Files in which one thing takes more, and how much that may be.
    private static let longerFiles = [
        // The whole of Lua's patterns: one matcher whose parts call each other.
        "Sources/CLuaShims/lib_pattern.c": 490,
        // A script is one file: what it keeps of connections, how it sends, and what the back end may ask.
        "scripts/webhooks.lua": 480,
    ]
}
