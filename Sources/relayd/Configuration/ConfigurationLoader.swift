import Relay

/// Where a configuration comes from: defaults, then the file, then the environment, then the flags; a later source
/// overrides an earlier one. `load` reads them all anew each time, and gives a whole configuration or one error.
struct ConfigurationLoader {
    /// `--config`, else `RELAYD_CONFIG`.
    var file: String?
    var environment: [String: String]
    /// By setting, in the order of the table; every list is what the flags said together.
    var flags: [(name: String, texts: [String])]
    /// `--limit NAME=VALUE`, in the order given.
    var limitFlags: [String]

    func load() throws(ConfigurationError) -> Configuration {
        var configuration = Configuration()
        if let file { try ConfigurationFile.read(file, into: &configuration) }
        try applyEnvironment(to: &configuration)
        try applyFlags(to: &configuration)
        try configuration.validate()
        return configuration
    }

    func applyFlags(to configuration: inout Configuration) throws(ConfigurationError) {
        for (name, texts) in flags { try configuration.set(name, to: texts, from: .flag) }
        for assignment in limitFlags {
            let name = try configuration.limits.set(assignment: assignment)
            configuration.sources["limits.\(name)"] = .flag
        }
    }

    private func applyEnvironment(to configuration: inout Configuration) throws(ConfigurationError) {
        for setting in Configuration.settings {
            guard let text = value(setting.environmentName) else { continue }
            let texts = setting.isList ? text.split(whereSeparator: \.isWhitespace).map(String.init) : [text]
            do { try configuration.set(setting.name, to: texts, from: .environment) } catch {
                throw error.at(setting.environmentName)
            }
        }
        for limit in Limits.descriptors {
            guard let text = value(limit.environmentName) else { continue }
            do { try configuration.setLimit(limit.name, to: text, from: .environment) } catch {
                throw error.at(limit.environmentName)
            }
        }
        // A misspelt limit must not be passed over. Other unknown names are left alone: where a service is called
        // relayd, Kubernetes sets RELAYD_PORT and more like it for every container.
        let known = Set(Limits.descriptors.map(\.environmentName))
        for name in environment.keys.sorted() where name.hasPrefix("RELAYD_LIMIT_") && !known.contains(name) {
            throw ConfigurationError("the variable \(name) names no limit; `relayd serve --print-config` lists them.")
        }
    }

    private func value(_ name: String) -> String? {
        guard let text = environment[name], !text.isEmpty else { return nil }
        return text
    }
}

/// Reads the configuration again on SIGHUP, for a relay that runs with `current`.
final class ConfigurationReloader {
    private let loader: ConfigurationLoader
    private(set) var current: Configuration

    init(loader: ConfigurationLoader, current: Configuration) {
        self.loader = loader
        self.current = current
    }

    /// A complete new configuration whose every change can be made live; or the reason why nothing is to change.
    func reload() -> Result<Configuration, ConfigurationError> {
        do throws(ConfigurationError) {
            let next = try loader.load()
            let blocked = current.changesThatNeedRestart(in: next)
            guard blocked.isEmpty else {
                throw ConfigurationError(
                    "\(blocked.joined(separator: ", ")) cannot change while the relay runs: restart it, or put the old "
                        + "value back. Nothing was changed.")
            }
            current = next
            return .success(next)
        } catch {
            return .failure(error)
        }
    }
}
