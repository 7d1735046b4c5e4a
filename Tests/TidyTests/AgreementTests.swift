import Testing

/// Things that are written in two places say the same in both.
@Suite struct `What is written twice agrees` {
    // MARK: The tunnel

    /// A text without the blanks in front of its lines.
    private func withoutIndentation(_ text: String) -> String {
        text.split(separator: "\n", omittingEmptySubsequences: false).map { String($0).trimmed }.joined(separator: "\n")
    }

    /// The paths of `bodies` that `script` does not hold word for word.
    private func missing(_ bodies: [SourceFile], in script: String) -> [String] {
        let script = withoutIndentation(script)
        return bodies.filter { file in
            var body = withoutIndentation(file.text)
            while body.hasSuffix("\n") { body.removeLast() }
            return body.isEmpty || !script.contains(body)
        }.map(\.path)
    }

    @Test func `the tunnel's script holds each of its six functions`() throws {
        let bodies = Repository.files.filter { $0.path.hasPrefix("scripts/tunnel/") }
        #expect(bodies.count == 6)
        #expect(missing(bodies, in: try #require(Repository.text("scripts/tunnel.lua"))) == [])
    }

    @Test func `a function that differs is found`() {
        let body = SourceFile(path: "f.lua", text: "function(a)\n  return a\nend\n")
        #expect(missing([body], in: "relay.instruction {\n  function(a)\n    return a\n  end }") == [])
        #expect(missing([body], in: "relay.instruction {\n  function(a)\n    return b\n  end }") == ["f.lua"])
        #expect(missing([SourceFile(path: "empty.lua", text: "\n")], in: "anything") == ["empty.lua"])
    }

    // MARK: The commands

    /// The names of the commands that `root` lists, read from the files that declare them.
    private func commandNames(_ root: String, in files: [SourceFile]) -> [String] {
        root.words.enumerated().filter { $0.element.hasSuffix("Command") }.compactMap { _, type in
            for file in files {
                guard let start = file.lines.firstIndex(where: { $0.contains("struct \(type):") }) else { continue }
                let line = file.lines[start...].first { $0.contains("commandName: \"") }
                return line?.split(separator: "\"").dropFirst().first.map(String.init)
            }
            return nil
        }
    }

    /// Those that `readme` does not show as `relayd NAME`.
    private func unnamed(_ commands: [String], in readme: String) -> [String] {
        let words = readme.words
        let named = zip(words, words.dropFirst()).filter { $0.0 == "relayd" }.map { String($0.1) }
        return commands.filter { !named.contains($0) }
    }

    @Test func `the README names every command`() throws {
        let root = try #require(Repository.text("Sources/relayd/RelaydCommand.swift"))
        let list = try #require(root.split(separator: "subcommands: [").last)
        let commands = commandNames(String(list), in: Repository.files.filter { $0.path.hasPrefix("Sources/relayd/") })
        #expect(commands.count == list.split(separator: "Command.self").count - 1, "\(commands)")
        #expect(commands.contains("serve"))
        #expect(unnamed(commands, in: try #require(Repository.text("README.md"))) == [])
    }

    @Test func `a command that the README forgets is found`() {
        let files = [
            SourceFile(
                path: "a.swift",
                text: "struct ServeCommand: ParsableCommand {\n    commandName: \"serve\",\n}\n"
                    + "struct KickCommand: ParsableCommand {\n    commandName: \"kick\",\n}\n")
        ]
        let commands = commandNames("[ServeCommand.self, KickCommand.self]", in: files)
        #expect(commands == ["serve", "kick"])
        #expect(unnamed(commands, in: "Start `relayd serve --help`; relayd kicks nobody.") == ["kick"])
        #expect(unnamed(commands, in: "`relayd serve` and `relayd kick 7`") == [])
    }

    // MARK: The two packages

    /// How a manifest's Swift targets are compiled.
    private func settings(_ manifest: String) -> [Substring] {
        manifest.split(separator: "\n").map { String($0).trimmed }.drop { !$0.hasPrefix("let settings") }
            .prefix { $0 != "]" }.filter { !$0.hasPrefix("//") }
    }

    @Test func `the micro-benchmarks are compiled as relayd is`() throws {
        let root = settings(try #require(Repository.text("Package.swift")))
        #expect(root.count > 1)
        #expect(settings(try #require(Repository.text("bench/micro/Package.swift"))) == root)
        #expect(settings("a\nlet settings = [\n  // b\n  c,\n]\nd\n") == ["let settings = [", "c,"])
    }

    // MARK: Links

    /// What the links of a text lead to inside the repository, without `#…`.
    private func localLinks(_ text: String) -> [String] {
        text.split(separator: "](").dropFirst().compactMap { rest in
            guard let end = rest.firstIndex(of: ")") else { return nil }
            let target = rest[..<end].prefix { $0 != "#" }
            return target.isEmpty || target.contains(":") ? nil : String(target)
        }
    }

    @Test func `links inside the repository lead somewhere`() {
        for file in Repository.files where file.path.hasSuffix(".md") {
            let folder = file.path.split(separator: "/").dropLast().map { $0 + "/" }.joined()
            for link in localLinks(file.text) {
                #expect(Repository.exists(folder + link), "\(file.path) leads to \(link)")
            }
        }
        #expect(localLinks("[a](b.md), [c](https://d.e/f), [g](#h), [i](j/k.md#l)") == ["b.md", "j/k.md"])
        #expect(!Repository.exists("no such file"))
    }
}
