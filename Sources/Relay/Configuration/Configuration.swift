package import Logging

/// Everything an operator decides before or while the relay runs, complete and checked: whoever holds one need not ask
/// where a value came from. `Configuration.settings` is the table that reads, prints and compares it.
package struct Configuration: Sendable, Equatable {
    /// Which interface of the kernel moves bytes.
    package enum IOBackend: String, CaseIterable, Sendable {
        case auto, epoll
        case ioUring = "io_uring"
    }

    package enum LogFormat: String, CaseIterable, Sendable {
        case text, json
    }

    /// Where a value came from; a later case overrides an earlier one.
    package enum Source: String, Sendable, Comparable {
        case `default`, file, environment, flag
        private var rank: Int {
            switch self {
            case .default: 0
            case .file: 1
            case .environment: 2
            case .flag: 3
            }
        }
        package static func < (a: Source, b: Source) -> Bool { a.rank < b.rank }
    }

    package var listeners: [ListenerURL] = [
        ListenerURL(address: .internet(host: "127.0.0.1", port: 8087))
    ]
    /// Relays that this one links itself to.
    package var links: [LinkURL] = []
    /// Lua files, or directories whose `*.lua` files are meant, loaded at start.
    package var scripts: [String] = []
    package var stateDirectory: String = "./relayd-state"
    package var loops: Int = availableProcessors()
    package var io: IOBackend = .auto
    package var tlsCertificate: String?
    package var tlsKey: String?
    package var tlsSelfSigned: Bool = false
    package var limits = Limits()
    package var logLevel: Logger.Level = .info
    package var logFormat: LogFormat = .text
    /// From SIGTERM to the exit.
    package var drainTimeout: Duration = .seconds(10)
    /// `scheme://host[:port]`, lower case, the only Origins that handshakes may carry; empty allows any.
    package var allowedOrigins: [String] = []
    /// Who may say on whose behalf it connects.
    package var trustedProxies: [CIDR] = []
    /// What all paths begin with, as in `/relay`; empty: nothing.
    package var basePath: String = ""
    /// Where scripts may send HTTP requests; empty: nowhere.
    package var httpAllowList = HTTPAllowList()
    /// The authorities that servers of `https:` URLs are verified against; nil: the system's.
    package var httpCertificateAuthorities: String?
    /// What scripts find in `relay.config`, beside what the relay puts there.
    package var scriptSettings: [ScriptSetting] = []
    /// Whether the example pages are served.
    package var examples: Bool = false
    /// By the setting's name; a missing one is `default`. No part of equality.
    package var sources: [String: Source] = [:]

    package init() {}

    /// The same decisions, wherever they came from.
    package static func == (a: Configuration, b: Configuration) -> Bool {
        a.limits == b.limits && settings.allSatisfy { $0.isSame(a, b) }
    }

    /// What no single value can show.
    package func validate() throws(ConfigurationError) {
        try limits.validate()
        switch (tlsCertificate, tlsKey) {
        case (nil, nil), (.some, .some): break
        case (.some, nil): throw ConfigurationError("tls.certificate is set without tls.key: give both.")
        case (nil, .some): throw ConfigurationError("tls.key is set without tls.certificate: give both.")
        }
        guard !tlsSelfSigned || tlsCertificate == nil else {
            throw ConfigurationError("tls.selfSigned and tls.certificate exclude each other: give one of them.")
        }
        var seen: Set<ListenerURL.Address> = []
        for listener in listeners {
            if listener.isSecure, tlsCertificate == nil, !tlsSelfSigned {
                throw ConfigurationError(
                    "listener \(listener.location()) needs a certificate: give --tls-certificate and --tls-key, or "
                        + "--tls-self-signed.")
            }
            if case .internet(_, port: 0) = listener.address { continue }
            guard seen.insert(listener.address).inserted else {
                throw ConfigurationError("listener \(listener.location()): the address is given twice.")
            }
        }
    }

    /// The names of settings that differ in `next` and take effect only at the next start.
    package func changesThatNeedRestart(in next: Configuration) -> [String] {
        let settings = Configuration.settings.filter { !$0.changesLive && !$0.isSame(self, next) }
        let limits = Limits.descriptors.filter {
            !$0.changesLive && $0.amount(in: self.limits) != $0.amount(in: next.limits)
        }
        return settings.map(\.name) + limits.map { "limits.\($0.name)" }
    }

    /// The names of all settings that differ in `next`, for the log.
    package func changes(in next: Configuration) -> [String] {
        let settings = Configuration.settings.filter { !$0.isSame(self, next) }
        let limits = Limits.descriptors.filter { $0.amount(in: self.limits) != $0.amount(in: next.limits) }
        return settings.map(\.name) + limits.map { "limits.\($0.name)" }
    }
}
