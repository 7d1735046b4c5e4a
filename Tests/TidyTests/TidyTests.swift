import Testing

/// The part of the house style that a machine can check.
@Suite struct `The house is tidy` {
    @Test(arguments: Rule.all)
    func `every file keeps the rule`(rule: Rule) {
        var broken: [String] = []
        for file in Repository.files where rule.concerns(file.path) {
            broken += rule.violations(file).map { "\(file.path):\($0)" }
        }
        #expect(broken.isEmpty, "\(rule.name): \(broken.joined(separator: ", "))")
    }

    @Test(arguments: Rule.all)
    func `a file that breaks the rule is found`(rule: Rule) {
        for file in rule.bad {
            #expect(rule.concerns(file.path), "\(file.path)")
            #expect(!rule.violations(file).isEmpty, "\(file.text.debugDescription) in \(file.path)")
        }
        #expect(rule.concerns(rule.good.path))
        #expect(rule.violations(rule.good) == [])
    }

    @Test func `every rule concerns files that there are`() {
        for path in [
            "Package.swift", "README.md", "Sources/Relay/Daemon.swift", "Sources/CLuaShims/engine.c", "dev/test",
            "scripts/tunnel/install server.lua", "Tests/TidyTests/TidyTests.swift",
        ] {
            #expect(Repository.files.contains { $0.path == path }, "\(path) is not looked at")
        }
        for rule in Rule.all {
            #expect(Repository.files.contains { rule.concerns($0.path) }, "\(rule.name)")
        }
    }
}
