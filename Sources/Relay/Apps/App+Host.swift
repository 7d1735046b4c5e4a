internal import Logging
internal import Synchronization

// What scripts can ask of the relay. Each of these only queues: no script is entered from here.
extension App: EngineHost {
    static let lastTimer = Atomic<UInt64>(0)
    /// Timers that one app may have at a time: a script that makes them in a loop is stopped by this.
    private static let maximumTimers = 65_536

    // MARK: Connections

    package func send(_ bytes: UnsafeRawBufferPointer, isText: Bool, to id: ConnectionID) -> ScriptSendResult {
        guard let target = members[id] else { return dialled[id]?.send(bytes, isText: isText) ?? .dropped }
        guard target.isOpen, !target.isTaken else { return .dropped }
        let limits = loop.limits
        // Above the high watermark the source is paused, so this bound is reached only by what has no source to pause
        // (timers), or by one call's whole output.
        guard target.queuedBytes + bytes.count <= limits.outboundHighBytes + limits.outputBytesPerCall else {
            return .dropped
        }
        _ = target.sendMessage(bytes, isText: isText)
        guard target.queuedBytes > limits.outboundHighBytes else { return .queued }
        // The turn has produced a lot: let the kernel have it now, and see whether the receiver keeps up.
        target.flush()
        guard target.isOpen else { return .dropped }
        guard target.queuedBytes > limits.outboundHighBytes else { return .queued }
        if let caller { caller.wait(for: target) } else { callingChannel?.wait(for: target) }
        return .backpressure
    }

    package func close(_ id: ConnectionID, code: UInt16, reason: String) -> Bool {
        guard let connection = members[id] else { return dialled[id]?.close(code, reason) ?? false }
        guard connection.isOpen else { return false }
        connection.close(CloseCode(rawValue: code), reason: reason)
        return true
    }

    package func isOpen(_ id: ConnectionID) -> Bool {
        members[id]?.isOpen ?? dialled[id]?.isOpen ?? false
    }

    package func facts(of id: ConnectionID) -> ConnectionFacts? {
        guard let identity = members[id]?.identity, let head = identity.head else { return nil }
        let request = members[id]?.here?.pendingRequest
        let address = request?.address ?? identity.address
        return ConnectionFacts(
            id: id, app: name, remoteAddress: address.host, remotePort: Int(address.port),
            path: request?.path ?? head.path, query: head.query, headers: head.headers, port: identity.listener.port,
            isAdmin: request?.isAdmin ?? identity.isAdmin, subprotocol: identity.subprotocol?.name, tls: identity.tls)
    }

    // MARK: Servers

    package func install(server: ServerID, connection: ConnectionID, options: ServerOptions) -> ErrorCode? {
        guard let target = members[connection], target.isOpen, !target.isTaken else { return .notFound }
        switch servers.install(server, connection, options) {
        case .unchanged:
            break
        case .taken:
            return .conflict
        case .tooMany:
            return .limit
        case .replaced(let holder):
            members[holder]?.close(.replaced, reason: "another connection was installed as this server")
            emit("server.destroyed", server, holder)
            emit("server.created", server, connection)
        case .installed:
            emit("server.created", server, connection)
        }
        tellLinks(about: [server])
        return nil
    }

    package func uninstall(server: ServerID) -> Bool {
        guard let holder = servers[server], servers.uninstall(server) else { return false }
        emit("server.destroyed", server, holder)
        tellLinks(about: [server])
        return true
    }

    package func server(_ server: ServerID) -> ConnectionID? { servers[server] }

    package func pipe(_ one: ConnectionID, _ other: ConnectionID) -> ErrorCode? {
        guard one != other else { return .badParameters }
        guard let one = members[one], let other = members[other], one.isOpen, other.isOpen else { return .notFound }
        guard !one.isTaken, !other.isTaken, let one = one.here, let other = other.here, !one.isMoving, !other.isMoving,
            one.channels == nil, other.channels == nil
        else { return .conflict }
        one.pipe(to: other)
        return nil
    }

    // MARK: Timers

    package func schedule(after delay: Duration, repeats: Bool) -> ScriptTimerID? {
        guard timers.count < Self.maximumTimers, !isShutDown else { return nil }
        let serial = Self.lastTimer.wrappingAdd(1, ordering: .relaxed).newValue
        let milliseconds = max(1, delay.wholeMilliseconds)
        timers[serial] = ScriptTimer(
            timer: loop.schedule(script: serial, of: self, after: milliseconds),
            interval: repeats ? milliseconds : nil, isWork: delay == .zero && !repeats)
        if timers[serial]?.isWork == true { shared.beginWork() }
        return ScriptTimerID(rawValue: serial)
    }

    package func cancel(_ timer: ScriptTimerID) {
        guard let entry = timers.removeValue(forKey: timer.rawValue) else { return }
        loop.cancel(script: timer.rawValue, entry.timer)
        if entry.isWork { shared.endWork() }
    }

    /// The loop's wheel has reached a script's timer.
    func timerFired(_ serial: UInt64) {
        guard let entry = timers[serial] else {
            return serial == links.pause?.serial ? pauseEnded() : sweepScriptChannels(serial)
        }
        if let interval = entry.interval {
            timers[serial]?.timer = loop.schedule(script: serial, of: self, after: interval)
        } else {
            timers[serial] = nil
        }
        isInEngine = true
        engine.timerFired(ScriptTimerID(rawValue: serial))
        isInEngine = false
        settle()
        if entry.isWork { shared.endWork() }
    }

    // MARK: Outcomes that come later

    package func callFinished(_ id: CallID, _ outcome: CallOutcome) {
        guard let waiting = pending.removeValue(forKey: id) else { return }
        if let caller = waiting.connection { members[caller]?.suspendedCallEnded() }
        if case .request(let connection, let serial) = waiting {
            guard let connection = requester(connection, serial) else { return }
            finishRequest(connection, outcome)
            // The next one may be here already, and needs the engine, which is still on its way out.
            if connection.lifecycle.isReadingHead { connection.continueNextTurn() }
            return
        }
        guard case .handshake(let connection) = waiting else { return finish(waiting, outcome) }
        // A connection that is let in runs its open hooks, and they need the engine, which is still on its way out.
        // What `returned` lends is not looked at by then.
        if case .returned = outcome {
            afterwards.append(.handshake(connection, .returned(json: nil, line: nil)))
        } else {
            afterwards.append(.handshake(connection, outcome))
        }
    }

    package func unattendedFailure(_ failure: ScriptFailure) { log(failure, nil) }

    package func log(level: ScriptLogLevel, message: String, fields: [(name: String, value: String)]) {
        var metadata: Logger.Metadata = ["app": "\(name)"]
        for field in fields { metadata[field.name] = "\(field.value)" }
        let level: Logger.Level =
            switch level {
            case .debug: .debug
            case .info: .info
            case .warning: .warning
            case .error: .error
            }
        shared.logger.log(level: level, "\(message)", metadata: metadata)
    }

    // MARK: Clocks, randomness, digests

    package func wallClockSeconds() -> Double { System.wallClockSeconds() }
    package func monotonicSeconds() -> Double { System.monotonicSeconds() }
    package func randomBytes(_ count: Int) -> [UInt8] { SecureRandom.bytes(count) }
    package func sha256(_ bytes: UnsafeRawBufferPointer) -> [UInt8] { Digest.sha256(bytes) }
    package func hmacSHA256(key: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer) -> [UInt8] {
        Digest.hmacSHA256(key: key, bytes)
    }
    package func constantTimeEqual(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool {
        Digest.constantTimeEqual(a, b)
    }

    package var configJSON: String {
        var json = Array(#"{"app":"#.utf8)
        JSONString.write(name, into: &json)
        json.append(contentsOf: #","messageBytes":\#(loop.limits.messageBytes)"#.utf8)
        json.append(contentsOf: #","outputBytesPerCall":\#(loop.limits.outputBytesPerCall)"#.utf8)
        json.append(contentsOf: #","scriptMemory":\#(loop.limits.scriptMemory)"#.utf8)
        for (name, time) in [("callTime", loop.limits.callTime), ("handshakeTimeout", loop.limits.handshakeTimeout)] {
            json.append(contentsOf: #","\#(name)":\#(Double(time.nanoseconds) / 1e9)"#.utf8)
        }
        for setting in shared.configuration.scriptSettings {
            json.append(UInt8(ascii: ","))
            JSONString.write(setting.name, into: &json)
            json.append(UInt8(ascii: ":"))
            JSONString.write(setting.value, into: &json)
        }
        json.append(UInt8(ascii: "}"))
        return String(decoding: json, as: UTF8.self)
    }
}
