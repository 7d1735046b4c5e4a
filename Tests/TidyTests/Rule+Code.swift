// Rules about Swift: what has to be proven beside it, and words that are not used.
extension Rule {
    static let code: [Rule] = [
        Rule(
            "what can trap has its proof beside it",
            bad: [
                ("Sources/a.swift", "let a = 1\n\nlet b = try! f()\n"), ("Sources/a.swift", "let b = a as! Int\n"),
                ("Sources/a.swift", "// Not near.\n\nguard a else { fatalError(\"b\") }\n"),
            ],
            good: ("Sources/a.swift", "// It is an Int: f makes nothing else.\nlet b = a as! Int\nlet c = try? f()\n"),
            concerns: isSwiftSource,
            violations: { file in
                file.lineNumbers { contains($0, ["try!", " as! ", "fatalError("]) }
                    .filter { !file.hasComment(at: $0, before: 1) }
            }),
        Rule(
            "what the compiler is told to believe has its reason beside it",
            bad: [
                ("Sources/a.swift", "import A\n\n\n\nfinal class B: @unchecked Sendable {\n    let c = 1\n}\n"),
                ("Sources/a.swift", "nonisolated(unsafe) var a = 1\n"),
                ("Sources/a.swift", "unowned(unsafe) let a: A\n"),
            ],
            good: ("Sources/a.swift", "// SAFETY: set once.\nnonisolated(unsafe) var a = 1\n"), concerns: isSwiftSource,
            violations: { file in
                file.lineNumbers { contains($0, ["unowned(unsafe)", "nonisolated(unsafe)", "@unchecked Sendable"]) }
                    .filter { !file.hasComment(at: $0, before: 3, after: 1) }
            }),
        Rule(
            "nothing is public but the client library",
            bad: [
                ("Sources/a.swift", "public struct A {}\n"), ("Sources/a.swift", "    public let a = 1\n"),
                ("Sources/a.swift", "open class A {}\n"), ("Sources/a.swift", "@frozen public enum A {}\n"),
                ("Sources/a.swift", "public import A\n"),
            ],
            good: ("Sources/a.swift", "package struct A {\n    var isPublic: Bool\n    var `public`: Bool?\n}\n"),
            concerns: { isSwiftSource($0) && !$0.hasPrefix("Sources/RelayClient/") },
            violations: { $0.lineNumbers(where: isPublicDeclaration) }),
        Rule(
            "an import says its level with one word, or has the internal one",
            bad: [
                ("Sources/a.swift", "@_exported import A\n"), ("Sources/a.swift", "@preconcurrency import A\n"),
                ("Sources/a.swift", "public import A\n"), ("Sources/a.swift", "@_implementationOnly import A\n"),
            ],
            good: ("Sources/a.swift", "internal import A\npackage import B\nimport C\nimport struct D.E\n"),
            concerns: isSwiftSource,
            violations: { $0.lineNumbers { isImport($0) && !importLevels.contains($0.split(separator: " ")[0]) } }),
        Rule(
            "no type is a manager, a helper, a util or an info",
            bad: [
                ("Sources/a.swift", "struct ConnectionInfo {}\n"), ("Sources/a.swift", "final class LoopManager {\n"),
                ("Sources/a.swift", "private enum Utils {}\n"), ("Sources/a.swift", "protocol HelperOf {}\n"),
            ],
            good: ("Sources/a.swift", "struct Information {}\nenum InfoscreenKind {}\nlet info = 1\n"),
            concerns: { $0.hasSuffix(".swift") && !$0.hasPrefix("Tests/TidyTests/") },
            violations: { $0.lineNumbers { typeName($0).map(isVague) == true } }),
        Rule(
            "tests wait for what happens, and never sleep",
            bad: [
                ("Tests/a.swift", "try await Task." + "sleep(for: .seconds(1))\n"),
                ("Tests/a.swift", "usle" + "ep(1)\n"),
            ],
            good: ("Tests/a.swift", "let body = \"relay.sleep(1)\"\n"),
            concerns: { $0.hasPrefix("Tests/") && $0.hasSuffix(".swift") },
            violations: {
                $0.lineNumbers {
                    contains($0, ["Task." + "sleep(", "usle" + "ep(", "nanosle" + "ep(", "Thread." + "sleep("])
                }
            }),
    ]

    private static let declarations: Set = [
        "struct", "class", "enum", "protocol", "actor", "func", "var", "let", "init", "typealias", "import",
        "extension",
        "static", "final",
    ]

    /// The words that an import may begin with.
    private static let importLevels: Set<Substring> = ["import", "internal", "package", "fileprivate", "private"]

    private static func contains(_ line: String, _ texts: [String]) -> Bool {
        texts.contains { line.contains($0) }
    }

    /// A declaration's modifiers stand in front of its keyword, and behind other modifiers only.
    private static func isPublicDeclaration(_ line: String) -> Bool {
        let words = line.split(separator: " ").map(String.init)
        guard !line.contains("//"), let keyword = words.firstIndex(where: declarations.contains) else { return false }
        return words[..<keyword].contains { $0 == "public" || $0 == "open" }
    }

    static func isImport(_ line: String) -> Bool {
        let words = line.split(separator: " ")
        guard let position = words.firstIndex(of: "import"), position + 1 < words.count else { return false }
        let levels: Set = ["internal", "package", "public", "private", "fileprivate"]
        return words[..<position].allSatisfy { $0.hasPrefix("@") || levels.contains(String($0)) }
    }

    /// The name of the type that a line declares.
    private static func typeName(_ line: String) -> String? {
        let words = line.split { !($0.isLetter || $0.isNumber || $0 == "_" || $0 == "/") }
        guard !words.contains(where: { $0.hasPrefix("//") }),
            let keyword = words.firstIndex(where: { ["struct", "class", "enum", "protocol", "actor"].contains($0) }),
            keyword + 1 < words.count
        else { return nil }
        return String(words[keyword + 1])
    }

    /// Whether one of the words of a name says nothing: `ConnectionInfo`, `LoopManager`.
    private static func isVague(_ name: String) -> Bool {
        var words: [String] = []
        for character in name {
            if character.isUppercase || words.isEmpty { words.append("") }
            words[words.count - 1].append(character)
        }
        return words.contains { ["Manager", "Helper", "Helpers", "Util", "Utils", "Utility", "Info"].contains($0) }
    }
}
