import CLuaShims
import Relay

// What C calls while a script runs. Each function takes the engine's address first, answers by value, raises nothing,
// and calls nothing of the C engine but rl_list_append: an engine is never entered again from inside.

extension LuaEngine {
    static var hostFunctions: rl_host {
        rl_host(
            context: nil, send: send, close: close, is_open: isOpen, facts: facts, install: install,
            uninstall: uninstall, server: server, pipe: pipe, connect: connect, may: may, hold: hold,
            take_messages: takeMessages, http: http, dial: dial, schedule: schedule, cancel: cancel,
            unattended_failure: unattendedFailure, log: log,
            wall_clock: { context in withHost(context) { $0.wallClockSeconds() } },
            monotonic: { context in withHost(context) { $0.monotonicSeconds() } },
            random_bytes: { context, bytes, count in
                copy(withHost(context) { $0.randomBytes(count) }, to: bytes, count: count)
            },
            sha256: { context, bytes, digest in
                copy(withHost(context) { $0.sha256(bytes.raw) }, to: digest, count: 32)
            },
            hmac_sha256: { context, key, bytes, digest in
                copy(withHost(context) { $0.hmacSHA256(key: key.raw, bytes.raw) }, to: digest, count: 32)
            },
            equal: { context, a, b in withHost(context) { $0.constantTimeEqual(a.raw, b.raw) } },
            config: { context, json in append(withHost(context) { $0.configJSON }, to: json) })
    }
}

private typealias Context = UnsafeMutableRawPointer?

private func withEngine<Result>(_ context: Context, _ body: (LuaEngine) -> Result) -> Result {
    guard let context else { preconditionFailure("a host function was called before LuaEngine.init was done") }
    // SAFETY: `context` is the engine that `LuaEngine.init` gave; it lives, since it is making the call.
    return Unmanaged<LuaEngine>.fromOpaque(context)._withUnsafeGuaranteedRef(body)
}

private func withHost<Result>(_ context: Context, _ body: (any EngineHost) -> Result) -> Result {
    withEngine(context) { body($0.host) }
}

// MARK: Connections

private func send(_ context: Context, _ connection: UInt64, _ bytes: rl_bytes, _ isText: Bool) -> Int32 {
    withHost(context) { $0.send(bytes.raw, isText: isText, to: ConnectionID(rawValue: connection)).rawValue }
}

private func close(_ context: Context, _ connection: UInt64, _ code: UInt16, _ reason: rl_bytes) -> Bool {
    withHost(context) { $0.close(ConnectionID(rawValue: connection), code: code, reason: reason.string) }
}

private func isOpen(_ context: Context, _ connection: UInt64) -> Bool {
    withHost(context) { $0.isOpen(ConnectionID(rawValue: connection)) }
}

private func facts(
    _ context: Context, _ connection: UInt64, _ facts: UnsafeMutablePointer<rl_facts>, _ strings: OpaquePointer
) -> Bool {
    guard let known = withHost(context, { $0.facts(of: ConnectionID(rawValue: connection)) }) else { return false }
    facts.pointee = rl_facts(
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

// MARK: Servers

private func install(
    _ context: Context, _ server: UnsafePointer<rl_server>, _ connection: UInt64, _ replaces: Bool, _ ports: rl_bytes,
    _ code: OpaquePointer
) -> Int32 {
    var options = ServerOptions(replaces: replaces)
    if ports.start != nil {
        guard let ports = PortSet(ports.string) else { return -1 }
        options.ports = ports
    }
    let refusal = withHost(context) {
        $0.install(
            server: ServerID(server.pointee), connection: ConnectionID(rawValue: connection),
            options: options)
    }
    guard let refusal else { return 1 }
    append(refusal.rawValue, to: code)
    return 0
}

private func uninstall(_ context: Context, _ server: UnsafePointer<rl_server>) -> Bool {
    withHost(context) { $0.uninstall(server: ServerID(server.pointee)) }
}

private func server(_ context: Context, _ server: UnsafePointer<rl_server>) -> UInt64 {
    withHost(context) { $0.server(ServerID(server.pointee))?.rawValue ?? 0 }
}

private func pipe(_ context: Context, _ one: UInt64, _ other: UInt64, _ code: OpaquePointer) -> Bool {
    let refusal = withHost(context) { $0.pipe(ConnectionID(rawValue: one), ConnectionID(rawValue: other)) }
    guard let refusal else { return true }
    append(refusal.rawValue, to: code)
    return false
}

private func connect(
    _ context: Context, _ connection: UInt64, _ server: UnsafePointer<rl_server>, _ port: UInt16,
    _ metadata: rl_bytes, _ code: OpaquePointer
) -> Int64 {
    let result = withHost(context) {
        $0.connect(
            ConnectionID(rawValue: connection), server: ServerID(server.pointee), port: port,
            metadata: metadata.buffer.map { String(decoding: $0, as: UTF8.self) })
    }
    switch result {
    case .channel(let number):
        return Int64(number ?? 0)
    case .refused(let refusal):
        append(refusal.rawValue, to: code)
        return -1
    }
}

private func may(_ context: Context, _ connection: UInt64, _ request: UInt64, _ right: rl_bytes) -> Int32 {
    let answer = withHost(context) {
        $0.may(ConnectionID(rawValue: connection), CallID(rawValue: request), right.string)
    }
    return answer.map { $0 ? 1 : 0 } ?? -1
}

private func hold(_ context: Context, _ connection: UInt64, _ isHeld: Bool) -> Bool {
    withHost(context) { $0.hold(ConnectionID(rawValue: connection), isHeld) }
}

private func takeMessages(_ context: Context, _ connection: UInt64) -> Bool {
    withHost(context) { $0.takeMessages(of: ConnectionID(rawValue: connection)) }
}

// MARK: HTTP

private func http(
    _ context: Context, _ asked: UnsafePointer<rl_http_request>, _ id: UnsafeMutablePointer<UInt64>,
    _ refusal: OpaquePointer
) -> Bool {
    let asked = asked.pointee
    let headers = stride(from: 0, to: asked.header_count * 2, by: 2).map { at in
        (name: asked.headers[at].string, value: asked.headers[at + 1].string)
    }
    let request = OutboundRequest(
        method: asked.method.string, url: asked.url.string, headers: headers, body: asked.body.buffer.map(Array.init),
        timeout: .seconds(asked.timeout), redirects: Int(asked.redirects))
    switch withHost(context, { $0.request(request) }) {
    case .success(let request):
        id.pointee = request.rawValue
        return true
    case .failure(let failure):
        append(failure.code.rawValue, to: refusal)
        append(failure.message, to: refusal)
        return false
    }
}

private func dial(
    _ context: Context, _ server: UnsafePointer<rl_server>, _ port: UInt16, _ functions: UnsafePointer<Int32>,
    _ metadata: rl_bytes, _ code: OpaquePointer
) -> UInt64 {
    func callback(_ index: Int) -> FunctionReference? {
        functions[index] > 0 ? FunctionReference(rawValue: functions[index]) : nil
    }
    let result = withHost(context) {
        $0.dial(
            server: ServerID(server.pointee), port: port,
            callbacks: DialCallbacks(open: callback(0), message: callback(1), close: callback(2)),
            metadata: metadata.buffer.map { String(decoding: $0, as: UTF8.self) })
    }
    switch result {
    case .channel(let id):
        return id.rawValue
    case .refused(let refusal):
        append(refusal.rawValue, to: code)
        return 0
    }
}

// MARK: Timers

private func schedule(
    _ context: Context, _ seconds: Double, _ repeats: Bool, _ timer: UnsafeMutablePointer<UInt64>
) -> Bool {
    guard let id = withHost(context, { $0.schedule(after: .seconds(seconds), repeats: repeats) }) else { return false }
    timer.pointee = id.rawValue
    return true
}

private func cancel(_ context: Context, _ timer: UInt64) {
    withHost(context) { $0.cancel(ScriptTimerID(rawValue: timer)) }
}

// MARK: Reports

private func unattendedFailure(_ context: Context, _ outcome: UnsafePointer<rl_outcome>) {
    withEngine(context) { $0.host.unattendedFailure($0.failure(outcome, name: .unattended)) }
}

private func log(
    _ context: Context, _ level: Int32, _ message: rl_bytes, _ fields: UnsafePointer<rl_bytes>?, _ count: Int
) {
    let fields = UnsafeBufferPointer(start: fields, count: count)
    let pairs = stride(from: 0, to: count, by: 2).map { at in
        (name: fields[at].string, value: fields[at + 1].string)
    }
    withHost(context) {
        $0.log(level: ScriptLogLevel(rawValue: level) ?? .info, message: message.string, fields: pairs)
    }
}

// MARK: Answers

/// A list that had no memory says so itself when C reads it.
private func append(_ text: String, to list: OpaquePointer) {
    withBytes(of: text) { _ = rl_list_append(list, $0.start, $0.count) }
}

/// Hands a digest or random bytes to C. A host that gives another count has a fault that must not become a weak token.
private func copy(_ bytes: [UInt8], to destination: UnsafeMutablePointer<UInt8>, count: Int) {
    precondition(bytes.count == count, "the host gave \(bytes.count) bytes where \(count) were asked for")
    bytes.withUnsafeBufferPointer { bytes in
        guard let start = bytes.baseAddress else { return }
        destination.update(from: start, count: count)
    }
}
