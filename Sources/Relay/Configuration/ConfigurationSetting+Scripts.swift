/// One value for scripts, `relay.config.NAME`.
package struct ScriptSetting: Sendable, Equatable {
    package let name: String
    package let value: String

    /// What `relay.config` holds without anybody's doing.
    private static let reserved: Set = [
        "app", "messageBytes", "outputBytesPerCall", "scriptMemory", "callTime", "handshakeTimeout",
    ]

    /// Reads `NAME=VALUE`.
    init(parsing text: String) throws(ConfigurationError) {
        guard let equals = text.firstIndex(of: "=") else {
            throw ConfigurationError("a setting for scripts has no value: write NAME=VALUE, as in target=http://…")
        }
        name = String(text[..<equals])
        value = String(text[text.index(after: equals)...])
        let isName = name.utf8.enumerated().allSatisfy { position, byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"): true
            case UInt8(ascii: "0")...UInt8(ascii: "9"): position > 0
            default: false
            }
        }
        guard isName, (1...64).contains(name.utf8.count), !Self.reserved.contains(name) else {
            throw ConfigurationError(
                "the setting for scripts \"\(name)\" must be a Lua name of at most 64 bytes, and none that the relay "
                    + "gives itself (\(Self.reserved.sorted().joined(separator: ", "))).")
        }
        guard value.utf8.count <= 4_096 else {
            throw ConfigurationError("the setting for scripts \"\(name)\" is longer than 4096 bytes.")
        }
    }
}

extension Configuration {
    /// What scripts get, and where they may reach.
    static let scriptSettings: [ConfigurationSetting] = [
        ConfigurationSetting(
            "http.allow", isList: true, changesLive: false,
            range: "HOST[:PORT], *.DOMAIN[:PORT], an address or a range",
            "Where scripts may send HTTP requests (relay.http); empty: nowhere. A name leads to public addresses only.",
            values: { $0.httpAllowList.entries.map(\.description) },
            take: { (texts, configuration) throws(ConfigurationError) in
                var entries: [HTTPAllowList.Entry] = []
                for text in texts { entries.append(try HTTPAllowList.Entry(parsing: text)) }
                configuration.httpAllowList = HTTPAllowList(entries)
            }),
        ConfigurationSetting(
            "http.ca", changesLive: false, range: "a PEM file",
            "The authorities that https:// servers of relay.http are verified against, instead of the system's.",
            values: { $0.httpCertificateAuthorities.map { [$0] } ?? [] },
            take: { (texts, configuration) throws(ConfigurationError) in
                guard !texts[0].isEmpty, !texts[0].utf8.contains(0) else {
                    throw ConfigurationError("http.ca must be a path, not an empty text.")
                }
                configuration.httpCertificateAuthorities = texts[0]
            }),
        ConfigurationSetting(
            "settings", isList: true, changesLive: true, range: "NAME=VALUE; in the file also a section of names",
            "What scripts read as relay.config.NAME; values are not printed.",
            values: { $0.scriptSettings.map { "\($0.name)=…" } },
            isSame: { $0.scriptSettings == $1.scriptSettings },
            take: { (texts, configuration) throws(ConfigurationError) in
                var settings: [ScriptSetting] = []
                for text in texts {
                    let setting = try ScriptSetting(parsing: text)
                    // The last word counts, as it does for settings altogether.
                    settings.removeAll { $0.name == setting.name }
                    settings.append(setting)
                }
                configuration.scriptSettings = settings
            }),
    ]
}
