// Rules about what may know of what: the code map of ARCHITECTURE.md.
extension Rule {
    static let structure: [Rule] = [
        Rule(
            "a folder imports only what it may touch",
            bad: [
                ("Sources/Relay/Daemon.swift", "import Scripting\n"), ("Sources/Relay/Daemon.swift", "import CLua\n"),
                ("Sources/Relay/HTTP/a.swift", "import Glibc\n"),
                ("Sources/Relay/Transport/a.swift", "internal import CUring\n"),
                ("Sources/Relay/WebSocket/a.swift", "internal import CLinux\n"),
                ("Sources/Relay/Instructions/a.swift", "import FoundationEssentials\n"),
                ("Sources/Relay/Servers/a.swift", "import COpenSSL\n"),
                ("Sources/Relay/Transport/a.swift", "internal import COpenSSL\n"),
                ("Sources/Scripting/a.swift", "import CLua\n"), ("Sources/Scripting/a.swift", "import Glibc\n"),
                ("Sources/relayd/main.swift", "import CLuaShims\n"),
                ("Sources/RelayClient/Channels/a.swift", "import Glibc\n"),
                ("Sources/RelayClient/a.swift", "import Scripting\n"),
                ("Sources/relayd/main.swift", "@testable import COpenSSL\n"),
                ("Sources/Relay/TLS/a.swift", "import struct Foundation.Date\n"),
                ("Sources/New/a.swift", "import Glibc\n"),
            ],
            good: (
                "Sources/Relay/TLS/a.swift",
                "// import Foundation would be too much.\ninternal import COpenSSL\nimport Glibc\n"
            ),
            concerns: isSwiftSource,
            violations: { file in
                // The longest path that fits says what is allowed; a new target needs a row.
                let row = allowedImports.filter { file.path.hasPrefix($0.path) }.max { $0.path.count < $1.path.count }
                return file.lineNumbers { line in
                    guard isImport(line), let module = importedModule(line) else { return false }
                    return row?.modules.contains(module) != true
                }
            }),
        Rule(
            "only CLua and its shims include Lua, only COpenSSL includes OpenSSL",
            bad: [
                ("Sources/CLinux/CLinux.h", "#include <lua.h>\n"), ("Sources/COpenSSL/a.h", "#include <lauxlib.h>\n"),
                ("Sources/CLuaShims/a.c", "#include <openssl/ssl.h>\n"),
            ],
            good: ("Sources/CLuaShims/a.c", "#include \"engine.h\"\n#include <lua.h>\n"),
            concerns: { $0.hasPrefix("Sources/") && ($0.hasSuffix(".c") || $0.hasSuffix(".h")) },
            violations: { file in
                file.lineNumbers { line in
                    guard line.hasPrefix("#include") else { return false }
                    let mayIncludeLua =
                        file.path.hasPrefix("Sources/CLua/") || file.path.hasPrefix("Sources/CLuaShims/")
                    if ["<lua", "<lauxlib", "lua_cjson"].contains(where: line.contains) { return !mayIncludeLua }
                    return line.contains("<openssl/") && !file.path.hasPrefix("Sources/COpenSSL/")
                }
            }),
    ]

    private static let pure: Set = ["Synchronization"]
    private static let system: Set = ["CLinux", "Glibc", "Logging", "Synchronization"]

    private static let allowedImports: [(path: String, modules: Set<String>)] = [
        // The core has never heard of Lua.
        ("Sources/Relay/", system),
        ("Sources/Relay/EventLoop/", system.union(["CUring"])),
        ("Sources/Relay/Apps/", system.union(["FoundationEssentials"])),
        ("Sources/Relay/Credentials/", ["FoundationEssentials", "Glibc", "Synchronization"]),
        ("Sources/Relay/Links/", system.union(["FoundationEssentials"])),
        ("Sources/Relay/TLS/", ["COpenSSL", "Glibc"]),
        // Bytes, time and randomness come in as values.
        ("Sources/Relay/HTTP/", pure),
        ("Sources/Relay/Instructions/", pure),
        ("Sources/Relay/Servers/", pure),
        ("Sources/Relay/WebSocket/", pure),
        ("Sources/Scripting/", ["CLuaShims", "Relay"]),
        ("Sources/Outbound/", ["CCurl", "Glibc", "Relay", "Synchronization"]),
        (
            "Sources/relayd/",
            system.union([
                "ArgumentParser", "CStaticFiles", "FoundationEssentials", "Outbound", "Relay", "RelayClient",
                "Scripting", "Yams",
            ])
        ),
        ("Sources/RelayClient/", ["CLinux", "FoundationEssentials", "Glibc", "Relay", "Synchronization"]),
        ("Sources/RelayClient/Channels/", ["Relay"]),
    ]

    /// `Glibc` of `internal import Glibc`, `Foundation` of `import struct Foundation.Date`.
    private static func importedModule(_ line: String) -> String? {
        let words = line.split(separator: " ")
        guard let position = words.firstIndex(of: "import") else { return nil }
        let kinds: Set = ["class", "enum", "func", "let", "protocol", "struct", "typealias", "var"]
        return words[(position + 1)...].first { !kinds.contains(String($0)) }?.split(separator: ".").first.map(
            String.init)
    }
}
