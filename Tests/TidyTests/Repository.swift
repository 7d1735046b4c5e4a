import FoundationEssentials

/// The repository's files as they are on disk, found from where this file lies.
enum Repository {
    static let root = String(#filePath.dropLast("/Tests/TidyTests/Repository.swift".count))

    private static let folders = ["Sources", "Tests", "bench", "clients", "dev", "scripts"]
    private static let kinds: Set = [
        "c", "css", "h", "html", "in", "ini", "js", "json", "lua", "md", "mjs", "modulemap", "py", "sh", "swift", "ts",
        "txt",
    ]

    /// Everything that a person has written: the folders above, and what stands beside them.
    static let files: [SourceFile] = {
        let manager = FileManager.default
        var paths = ((try? manager.contentsOfDirectory(atPath: root)) ?? []).filter(isText)
        for folder in folders {
            let inside = (try? manager.subpathsOfDirectory(atPath: root + "/" + folder)) ?? []
            paths += inside.map { folder + "/" + $0 }.filter(isText)
        }
        return paths.sorted().compactMap { path in
            text(path).map { SourceFile(path: path, text: $0) }
        }
    }()

    /// A file's text; nil where it is none, or is not there.
    static func text(_ path: String) -> String? {
        guard let data = FileManager.default.contents(atPath: root + "/" + path) else { return nil }
        return String(validating: data, as: UTF8.self)
    }

    static func exists(_ path: String) -> Bool { FileManager.default.fileExists(atPath: root + "/" + path) }

    /// What people write has an ending that says so, or is a script of `dev/`, which has none.
    private static func isText(_ path: String) -> Bool {
        let parts = path.split(separator: "/")
        guard let name = parts.last, !parts.contains(where: { $0.hasPrefix(".") || $0.hasPrefix("__") }) else {
            return false
        }
        guard let dot = name.lastIndex(of: ".") else { return parts.count == 2 && parts[0] == "dev" }
        return kinds.contains(String(name[name.index(after: dot)...]))
    }
}
