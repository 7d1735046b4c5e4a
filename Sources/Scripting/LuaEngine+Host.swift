import CLuaShims
import Relay

// What C calls while a script runs. Each function takes the engine's address first, answers by value, raises nothing,
// and calls nothing of the C engine but rl_list_append: an engine is never entered again from inside.

/// SAFETY: `context` is the engine that `LuaEngine.init` gave; it lives, since it is making the call.
private func withHost<Result>(_ context: UnsafeMutableRawPointer?, _ body: (any EngineHost) -> Result) -> Result {
    Unmanaged<LuaEngine>.fromOpaque(context!)._withUnsafeGuaranteedRef { body($0.host) }
}

extension LuaEngine {
    static func hostFunctions(context: UnsafeMutableRawPointer) -> rl_host {
        var functions = rl_host()
        functions.context = context
        addConnections(to: &functions)
        addServers(to: &functions)
        addTimers(to: &functions)
        addReports(to: &functions)
        addFacilities(to: &functions)
        return functions
    }

    private static func addConnections(to functions: inout rl_host) {
        functions.send = { context, connection, bytes, isText in
            withHost(context) {
                $0.send(bytes.raw, isText: isText, to: ConnectionID(rawValue: connection)).rawValue
            }
        }
        functions.close = { context, connection, code, reason in
            withHost(context) { $0.close(ConnectionID(rawValue: connection), code: code, reason: reason.string) }
        }
        functions.is_open = { context, connection in
            withHost(context) { $0.isOpen(ConnectionID(rawValue: connection)) }
        }
        functions.facts = { context, connection, facts, strings in
            withHost(context) { host in
                guard let known = host.facts(of: ConnectionID(rawValue: connection)) else { return false }
                facts!.pointee = rl_facts(
                    remote_port: Int32(truncatingIfNeeded: known.remotePort), port: Int32(truncatingIfNeeded: known.port),
                    is_admin: known.isAdmin, has_subprotocol: known.subprotocol != nil, has_tls: known.tls != nil)
                append(known.app, to: strings)
                append(known.remoteAddress, to: strings)
                append(known.path, to: strings)
                append(known.query, to: strings)
                append(known.subprotocol ?? "", to: strings)
                append(known.tls ?? "", to: strings)
                for (name, value) in known.headers {
                    append(name, to: strings)
                    append(value, to: strings)
                }
                return true
            }
        }
    }

    private static func addServers(to functions: inout rl_host) {
        functions.install = { context, server, connection, replaces, code in
            withHost(context) { host in
                let refusal = host.install(
                    server: ServerID(server!.pointee), connection: ConnectionID(rawValue: connection),
                    options: ServerOptions(replaces: replaces))
                guard let refusal else { return true }
                append(refusal.rawValue, to: code)
                return false
            }
        }
        functions.uninstall = { context, server in
            withHost(context) { $0.uninstall(server: ServerID(server!.pointee)) }
        }
        functions.server = { context, server in
            withHost(context) { $0.server(ServerID(server!.pointee))?.rawValue ?? 0 }
        }
    }

    private static func addTimers(to functions: inout rl_host) {
        functions.schedule = { context, seconds, repeats, timer in
            withHost(context) { host in
                guard let id = host.schedule(after: .seconds(seconds), repeats: repeats) else { return false }
                timer!.pointee = id.rawValue
                return true
            }
        }
        functions.cancel = { context, timer in
            withHost(context) { $0.cancel(ScriptTimerID(rawValue: timer)) }
        }
    }

    private static func addReports(to functions: inout rl_host) {
        functions.unattended_failure = { context, outcome in
            Unmanaged<LuaEngine>.fromOpaque(context!)._withUnsafeGuaranteedRef { engine in
                engine.host.unattendedFailure(engine.failure(outcome!, name: .unattended))
            }
        }
        functions.log = { context, level, message, fields, count in
            let fields = UnsafeBufferPointer(start: fields, count: count)
            let pairs = stride(from: 0, to: count, by: 2).map { at in
                (name: fields[at].string, value: fields[at + 1].string)
            }
            withHost(context) {
                $0.log(level: ScriptLogLevel(rawValue: level) ?? .info, message: message.string, fields: pairs)
            }
        }
    }

    private static func addFacilities(to functions: inout rl_host) {
        functions.wall_clock = { context in withHost(context) { $0.wallClockSeconds() } }
        functions.monotonic = { context in withHost(context) { $0.monotonicSeconds() } }
        functions.random_bytes = { context, bytes, count in
            let random = withHost(context) { $0.randomBytes(count) }
            copy(random, to: bytes, count: count)
        }
        functions.sha256 = { context, bytes, digest in
            let result = withHost(context) { $0.sha256(bytes.raw) }
            copy(result, to: digest, count: 32)
        }
        functions.hmac_sha256 = { context, key, bytes, digest in
            let result = withHost(context) { $0.hmacSHA256(key: key.raw, bytes.raw) }
            copy(result, to: digest, count: 32)
        }
        functions.equal = { context, a, b in withHost(context) { $0.constantTimeEqual(a.raw, b.raw) } }
        functions.config = { context, json in append(withHost(context) { $0.configJSON }, to: json) }
    }
}

/// A list that had no memory says so itself when C reads it.
private func append(_ text: String, to list: OpaquePointer?) {
    withBytes(of: text) { _ = rl_list_append(list, $0.start, $0.count) }
}

/// Hands a digest or random bytes to C. A host that gives another count has a fault that must not become a weak token.
private func copy(_ bytes: [UInt8], to destination: UnsafeMutablePointer<UInt8>?, count: Int) {
    precondition(bytes.count == count, "the host gave \(bytes.count) bytes where \(count) were asked for")
    bytes.withUnsafeBufferPointer { bytes in
        guard let start = bytes.baseAddress else { return }
        destination!.update(from: start, count: count)
    }
}
