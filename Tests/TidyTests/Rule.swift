import Testing

/// One thing that holds for every file that it concerns.
struct Rule: Sendable, CustomTestStringConvertible {
    /// What holds, in words.
    let name: String
    /// Which files it concerns, by their paths.
    let concerns: @Sendable (String) -> Bool
    /// The numbers of the lines that break it, from 1.
    let violations: @Sendable (SourceFile) -> [Int]
    /// One file that it concerns and that breaks it: a check that has never failed is none.
    let bad: [SourceFile]
    /// One file that it concerns and that is fine.
    let good: SourceFile

    init(
        _ name: String, bad: [(path: String, text: String)], good: (path: String, text: String),
        concerns: @escaping @Sendable (String) -> Bool, violations: @escaping @Sendable (SourceFile) -> [Int]
    ) {
        self.name = name
        self.concerns = concerns
        self.violations = violations
        self.bad = bad.map { SourceFile(path: $0.path, text: $0.text) }
        self.good = SourceFile(path: good.path, text: good.text)
    }

    var testDescription: String { name }
}

extension Rule {
    static let all = Rule.text + Rule.code + Rule.structure

    static let isSource: @Sendable (String) -> Bool = { $0.hasPrefix("Sources/") }
    static let isSwiftSource: @Sendable (String) -> Bool = { $0.hasPrefix("Sources/") && $0.hasSuffix(".swift") }
}
