internal import Glibc
package import Logging

/// The relay as a process: binds, loads scripts, runs the loops, and obeys signals. The main loop runs on the thread
/// that calls `run`; every other loop has a thread of its own.
package final class Daemon {
    private let shared: SharedState
    private let configuration: Configuration
    private var loops: [EventLoop] = []
    private var settings: [ListenerSettings] = []
    private let signals: SignalSource
    private let dial: Dial
    private var isDraining = false
    private var exitCode: Int32 = 0

    /// `files` are served over plain HTTP, by path; `dial` makes links.
    package init(
        configuration: Configuration, credentials: CredentialStore, logger: Logger, files: [String: StaticFile],
        outbound: any OutboundHTTP,
        dial: @escaping Dial = { _ in .failure(ConfigurationError("links are not supported here")) },
        makeEngine: @escaping @Sendable (any EngineHost, ScriptBudgets) throws(ScriptFailure) -> any InstructionEngine
    ) throws(StartError) {
        self.configuration = configuration
        self.dial = dial
        signals = try SignalSource()
        shared = SharedState(
            configuration: configuration, credentials: credentials, logger: logger, files: files,
            outbound: outbound, makeEngine: makeEngine)
    }

    /// Binds every listener and loads the scripts. Nothing is accepted before `run`, but the kernel queues connections
    /// from here on. Returns the listeners' URLs, with the ports that were bound.
    package func start() throws(StartError) -> [String] {
        let limit = System.raiseOpenFileLimit()
        if limit < configuration.limits.connections {
            shared.logger.notice(
                "the limit of open files is below the limit of connections",
                metadata: ["openFiles": "\(limit)", "connections": "\(configuration.limits.connections)"])
        }
        let backends = try Backend.make(configuration.io, count: configuration.loops, logger: shared.logger)
        for (index, backend) in backends.enumerated() {
            loops.append(try EventLoop(index: index, shared: shared, backend: backend))
        }
        shared.start(loops)
        try makeDefaultApp()
        for listener in configuration.listeners { try bind(listener) }
        return settings.map(\.url)
    }

    private func makeDefaultApp() throws(StartError) {
        let app: App
        // The first name of all goes to the first loop.
        _ = shared.apps.reserve(App.defaultName, loopCount: loops.count)
        do { app = try App.make(name: App.defaultName, loop: loops[0]) } catch {
            throw StartError("cannot make the default app: \(error.message)")
        }
        for file in try ScriptFile.all(configuration.scripts) {
            do { _ = try app.load(script: file.name, source: file.source) } catch {
                throw StartError("cannot load the script \(file.path): \(error.message)")
            }
        }
        app.links.diallers = configuration.links.map { LinkDialler($0, shared, dial) }
        loops[0].apps[app.name] = app
        shared.apps.publish(app.name, serial: app.serial)
    }

    private func bind(_ listener: ListenerURL) throws(StartError) {
        let made: ListenerSettings
        switch listener.address {
        case .unix(let path):
            made = ListenerSettings(listener, boundPort: nil, isAdmin: true, tls: nil)
            try loops[0].add(Listener(fileDescriptor: try Binding.unix(path: path), settings: made))
        case .internet(let host, let port):
            let tls = listener.isSecure ? try tlsContext(configuration) : nil
            let bound = try Binding.tcp(host: host, port: Int(port), count: loops.count)
            made = ListenerSettings(listener, boundPort: UInt16(bound.port), isAdmin: false, tls: tls)
            for (loop, descriptor) in zip(loops, bound.descriptors) {
                try loop.add(Listener(fileDescriptor: descriptor, settings: made))
            }
        }
        settings.append(made)
    }

    private func tlsContext(_ configuration: Configuration) throws(StartError) -> TLSContext {
        do {
            if let certificate = configuration.tlsCertificate, let key = configuration.tlsKey {
                return try TLSContext.server(certificateFile: certificate, keyFile: key)
            }
            let files = try SelfSigned.ensure(in: configuration.stateDirectory, names: [])
            return try TLSContext.server(certificateFile: files.certificate, keyFile: files.key)
        } catch {
            throw StartError("\(error)")
        }
    }

    // MARK: Running

    /// Runs until drained. `reload` reads the configuration again, on SIGHUP; `applied` hears of the one that was
    /// accepted, certificates and all. Returns the exit code.
    package func run(
        reload: @escaping () -> Result<Configuration, ConfigurationError>,
        applied: @escaping (Configuration) -> Void
    ) -> Int32 {
        do {
            try loops[0].handle(signals) { [unowned self] signal in
                switch signal {
                case .reload: self.reload(reload, applied)
                case .terminate: self.terminate()
                }
            }
        } catch {
            shared.logger.error("\(error)")
            return 1
        }
        for link in loops[0].apps[App.defaultName]?.links.diallers ?? [] { link.start() }
        let threads = loops.dropFirst().map { loop in
            System.startThread(name: "loop \(loop.index)") { loop.run() }
        }
        loops[0].run()
        for thread in threads { pthread_join(thread, nil) }
        shared.outbound?.stop()
        for case .unix(let path) in configuration.listeners.map(\.address) { unlink(path) }
        return exitCode
    }

    /// SIGHUP: everything new is made and checked before anything is replaced.
    private func reload(
        _ read: () -> Result<Configuration, ConfigurationError>, _ applied: (Configuration) -> Void
    ) {
        switch read() {
        case .failure(let error):
            shared.logger.error("the configuration was not reloaded", metadata: ["reason": "\(error)"])
        case .success(let configuration):
            var context: TLSContext?
            if settings.contains(where: \.isSecure) {
                do { context = try tlsContext(configuration) } catch {
                    return shared.logger.error("the certificate was not reloaded", metadata: ["reason": "\(error)"])
                }
            }
            if let context { for listener in settings { listener.replace(context) } }
            shared.replace(configuration)
            applied(configuration)
            shared.logger.info("reloaded configuration and certificates")
        }
    }

    /// SIGTERM: drain; once more: end now.
    private func terminate() {
        guard !isDraining else {
            exitCode = 1
            return shared.broadcast(.stop)
        }
        isDraining = true
        shared.logger.info(
            "draining", metadata: ["timeoutMilliseconds": "\(shared.configuration.drainTimeout.wholeMilliseconds)"])
        let isEmpty = shared.beginDraining()
        shared.broadcast(isEmpty ? .stop : .drain(milliseconds: shared.configuration.drainTimeout.wholeMilliseconds))
    }
}
