import Logging

/// One setting besides the limits: its name in the file, what may be written, and how it gets into a configuration.
/// The file, the environment and the flags all come through `set`, as text.
package struct ConfigurationSetting: Sendable {
    /// As in the file, dots separating sections: `tls.certificate`. The flag (`--tls-certificate`) and the variable
    /// (`RELAYD_TLS_CERTIFICATE`) are made from it.
    package let name: String
    /// Whether it is a list in the file, repeatable as a flag, and separated by blanks in the environment.
    package let isList: Bool
    package let changesLive: Bool
    /// What may be written: `1 to 1024`, `true or false`.
    package let range: String
    package let explanation: String
    /// The value as it is printed: secrets redacted, nothing for an optional one that is not set.
    package let values: @Sendable (Configuration) -> [String]
    /// Whether two configurations say the same here, secrets included.
    let isSame: @Sendable (Configuration, Configuration) -> Bool
    /// Takes at least one value, exactly one where `isList` is false.
    let take: @Sendable (_ texts: [String], _ configuration: inout Configuration) throws(ConfigurationError) -> Void

    package var environmentName: String { "RELAYD_" + upperSnakeCase(name) }

    init(
        _ name: String, isList: Bool = false, changesLive: Bool, range: String, _ explanation: String,
        values: @escaping @Sendable (Configuration) -> [String],
        isSame: (@Sendable (Configuration, Configuration) -> Bool)? = nil,
        take: @escaping @Sendable ([String], inout Configuration) throws(ConfigurationError) -> Void
    ) {
        self.name = name
        self.isList = isList
        self.changesLive = changesLive
        self.range = range
        self.explanation = explanation
        self.values = values
        self.isSame = isSame ?? { values($0) == values($1) }
        self.take = take
    }
}

extension Configuration {
    /// Sets a setting other than a limit. `texts` replaces what an earlier source said.
    package mutating func set(
        _ name: String, to texts: [String], from source: Source
    ) throws(ConfigurationError) {
        guard let setting = Configuration.settings.first(where: { $0.name == name }) else {
            let names = (Configuration.settings.map(\.name) + ["limits"]).joined(separator: ", ")
            throw ConfigurationError("there is no setting \"\(name)\"; the settings are \(names).")
        }
        guard setting.isList || texts.count == 1 else {
            throw ConfigurationError("\(name) takes one value: \(setting.range).")
        }
        try setting.take(texts, &self)
        sources[name] = source
    }

    /// Sets a limit from its text.
    package mutating func setLimit(
        _ name: String, to text: String, from source: Source
    ) throws(ConfigurationError) {
        try limits.set(name, to: text)
        sources["limits.\(name)"] = source
    }

    /// Every setting except the limits, in the order in which they are printed.
    package static let settings: [ConfigurationSetting] = ownSettings + scriptSettings

    private static let ownSettings: [ConfigurationSetting] = [
        ConfigurationSetting(
            "listen", isList: true, changesLive: false,
            range: "ws://HOST:PORT, wss://HOST:PORT or unix:PATH; behind ?: \(ListenerURL.items)",
            "Where the relay listens.",
            values: { $0.listeners.map(\.description) },
            isSame: { $0.listeners == $1.listeners },
            take: { (texts, configuration) throws(ConfigurationError) in
                var listeners: [ListenerURL] = []
                for text in texts { listeners.append(try ListenerURL(parsing: text)) }
                guard !listeners.isEmpty else {
                    throw ConfigurationError("listen is empty: name at least one address, as in ws://127.0.0.1:8087.")
                }
                configuration.listeners = listeners
            }),
        ConfigurationSetting(
            "links", isList: true, changesLive: false, range: LinkURL.range,
            "Relays whose servers are reachable here, and this one's there (docs/links.md).",
            values: { $0.links.map(\.description) },
            isSame: { $0.links == $1.links },
            take: { (texts, configuration) throws(ConfigurationError) in
                configuration.links = try texts.map { (text) throws(ConfigurationError) in
                    try LinkURL(parsing: text)
                }
            }),
        ConfigurationSetting(
            "script", isList: true, changesLive: false, range: "Lua files, or directories of them",
            "Scripts loaded at start; `relayd push` changes them while the relay runs.",
            values: { $0.scripts },
            take: { (texts, configuration) throws(ConfigurationError) in
                for text in texts { try checkPath(text, of: "script") }
                configuration.scripts = texts
            }),
        ConfigurationSetting(
            "state", changesLive: false, range: "a directory",
            "Where the relay keeps what must outlive it; made when missing.",
            values: { [$0.stateDirectory] },
            take: { (texts, configuration) throws(ConfigurationError) in
                try checkPath(texts[0], of: "state")
                configuration.stateDirectory = texts[0]
            }),
        ConfigurationSetting(
            "loops", changesLive: false, range: "1 to 1024",
            "Event loops, each one thread; by default one for each processor.",
            values: { [String($0.loops)] },
            take: { (texts, configuration) throws(ConfigurationError) in
                guard let loops = LimitUnit.count.parse(texts[0]), (1...1024).contains(loops) else {
                    throw ConfigurationError("loops is \"\(texts[0])\", but must be a whole number from 1 to 1024.")
                }
                configuration.loops = Int(loops)
            }),
        ConfigurationSetting(
            "io", changesLive: false, range: choices(IOBackend.self),
            "The kernel's interface for sockets.",
            values: { [$0.io.rawValue] },
            take: { (texts, configuration) throws(ConfigurationError) in
                configuration.io = try choice(texts[0], for: "io")
            }),
        ConfigurationSetting(
            "tls.certificate", changesLive: true, range: "a PEM file, the whole chain",
            "The certificate of wss:// listeners; read again on SIGHUP.",
            values: { optional($0.tlsCertificate) },
            take: { (texts, configuration) throws(ConfigurationError) in
                try checkPath(texts[0], of: "tls.certificate")
                configuration.tlsCertificate = texts[0]
            }),
        ConfigurationSetting(
            "tls.key", changesLive: true, range: "a PEM file, not encrypted",
            "The certificate's private key; read again on SIGHUP.",
            values: { optional($0.tlsKey) },
            take: { (texts, configuration) throws(ConfigurationError) in
                try checkPath(texts[0], of: "tls.key")
                configuration.tlsKey = texts[0]
            }),
        ConfigurationSetting(
            "tls.selfSigned", changesLive: true, range: "true or false",
            "Make a key and a certificate in the state directory on first use.",
            values: { [String($0.tlsSelfSigned)] },
            take: { (texts, configuration) throws(ConfigurationError) in
                configuration.tlsSelfSigned = try boolean(texts[0], for: "tls.selfSigned")
            }),
        ConfigurationSetting(
            "allowedOrigins", isList: true, changesLive: true, range: "scheme://host[:port], compared exactly",
            "The only values of Origin that a handshake may carry; empty allows any.",
            values: { $0.allowedOrigins },
            take: { (texts, configuration) throws(ConfigurationError) in
                var origins: [String] = []
                for text in texts { origins.append(try origin(text)) }
                configuration.allowedOrigins = origins
            }),
        ConfigurationSetting(
            "trustedProxies", isList: true, changesLive: true, range: "addresses and ranges, as in 10.0.0.0/8",
            "Proxies whose X-Forwarded-For, Forwarded and PROXY headers are believed.",
            values: { $0.trustedProxies.map(\.description) },
            take: { (texts, configuration) throws(ConfigurationError) in
                var proxies: [CIDR] = []
                for text in texts {
                    guard let range = CIDR(text) else {
                        throw ConfigurationError(
                            "trustedProxies has \"\(text)\", but takes addresses and ranges, as in 10.0.0.0/8.")
                    }
                    proxies.append(range)
                }
                configuration.trustedProxies = proxies
            }),
        ConfigurationSetting(
            "basePath", changesLive: true, range: "a path, as in /relay",
            "What every path begins with, for a proxy that passes part of a site on as it is.",
            values: { $0.basePath.isEmpty ? [] : [$0.basePath] },
            take: { (texts, configuration) throws(ConfigurationError) in
                configuration.basePath = try pathPrefix(texts[0])
            }),
        ConfigurationSetting(
            "examples", changesLive: true, range: "true or false",
            "Serve the example pages, at /examples/.",
            values: { [String($0.examples)] },
            take: { (texts, configuration) throws(ConfigurationError) in
                configuration.examples = try boolean(texts[0], for: "examples")
            }),
        ConfigurationSetting(
            "log.level", changesLive: true, range: choices(Logger.Level.self),
            "The least severe level that is logged.",
            values: { [$0.logLevel.rawValue] },
            take: { (texts, configuration) throws(ConfigurationError) in
                configuration.logLevel = try choice(texts[0], for: "log.level")
            }),
        ConfigurationSetting(
            "log.format", changesLive: true, range: choices(LogFormat.self),
            "One line per entry on standard error, as text or as a JSON object.",
            values: { [$0.logFormat.rawValue] },
            take: { (texts, configuration) throws(ConfigurationError) in
                configuration.logFormat = try choice(texts[0], for: "log.format")
            }),
        ConfigurationSetting(
            "drain.timeout", changesLive: true, range: "0 to 1h",
            "From SIGTERM to the exit: connections are asked to leave, spread over this time.",
            values: { [LimitUnit.seconds.format($0.drainTimeout.nanoseconds)] },
            take: { (texts, configuration) throws(ConfigurationError) in
                guard let time = LimitUnit.seconds.parse(texts[0]), (0...3_600_000_000_000).contains(time) else {
                    throw ConfigurationError(
                        "drain.timeout is \"\(texts[0])\", but must be \(LimitUnit.seconds.syntax), from 0 to 1h.")
                }
                configuration.drainTimeout = .nanoseconds(time)
            }),
    ]
}

private func optional(_ value: String?) -> [String] { value.map { [$0] } ?? [] }

private func choices<Value: RawRepresentable & CaseIterable>(_ type: Value.Type) -> String
where Value.RawValue == String {
    type.allCases.map(\.rawValue).joined(separator: ", ")
}

private func choice<Value: RawRepresentable & CaseIterable>(
    _ text: String, for name: String
) throws(ConfigurationError) -> Value where Value.RawValue == String {
    guard let value = Value(rawValue: text) else {
        throw ConfigurationError("\(name) is \"\(text)\", but must be one of \(choices(Value.self)).")
    }
    return value
}

private func boolean(_ text: String, for name: String) throws(ConfigurationError) -> Bool {
    guard let value = Bool(text) else {
        throw ConfigurationError("\(name) is \"\(text)\", but must be true or false.")
    }
    return value
}

private func checkPath(_ text: String, of name: String) throws(ConfigurationError) {
    guard !text.isEmpty, !text.utf8.contains(0) else {
        throw ConfigurationError("\(name) must be a path, not an empty text.")
    }
}

/// A path as requests begin with it: without a slash at its end.
private func pathPrefix(_ text: String) throws(ConfigurationError) -> String {
    let path = text.hasSuffix("/") ? String(text.dropLast()) : text
    let segments = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst()
    guard path.isEmpty || path.hasPrefix("/"), !segments.contains(where: { ["", ".", ".."].contains($0) }),
        path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }), !path.contains(where: { "?#%".contains($0) })
    else {
        throw ConfigurationError("basePath is \"\(text)\", but must be a path without escapes, as in /relay.")
    }
    return path
}

/// An origin as browsers write it (RFC 6454 §6.2): lower case, without a path; a default port is left out.
private func origin(_ text: String) throws(ConfigurationError) -> String {
    let lower = text.lowercased()
    let wrong = ConfigurationError(
        "allowedOrigins has \"\(text)\", but an origin is scheme://host[:port], as in https://example.com.")
    guard let separator = lower.firstRange(of: "://") else { throw wrong }
    let scheme = lower[..<separator.lowerBound]
    var authority = lower[separator.upperBound...]
    guard !scheme.isEmpty, !authority.isEmpty,
        lower.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }),
        !authority.contains(where: { "/?#@\\*,".contains($0) })
    else { throw wrong }
    for (name, port) in [("http", ":80"), ("https", ":443")] where scheme == name && authority.hasSuffix(port) {
        authority.removeLast(port.count)
    }
    guard !authority.isEmpty, !authority.hasSuffix(":") else { throw wrong }
    return "\(scheme)://\(authority)"
}
