import ArgumentParser
import Glibc
import Relay
import RelayClient

struct WatchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "watch",
        abstract: "Push scripts whenever they are saved.",
        discussion: """
            Watches files, or the *.lua files of directories, and pushes each one that has changed once its writer is \
            done and a moment has been quiet. What does not load is reported, and the version that served goes on. \
            When the relay goes away, watch connects again and pushes what has changed meanwhile. Ends with Ctrl-C.
            """)

    @OptionGroup var client: ClientOptions
    @Argument(help: ArgumentHelp("Files or directories.", valueName: "path")) var paths: [String]
    @Flag(help: "Push every file once at the start, changed or not.") var pushFirst = false

    func run() throws {
        let watcher: FileWatcher
        do { watcher = try FileWatcher(paths: paths) } catch { throw ClientFailure.refused("Cannot watch \(error).") }
        let session = WatchSession(
            watcher: watcher, credential: try client.requiredCredential(), isJSON: client.json, connect: client.connect)
        try session.run(pushFirst: pushFirst)
    }
}

/// One run of `relayd watch`.
private final class WatchSession {
    /// How long a file must have been quiet. Editors that write in several steps are done within a few milliseconds.
    private static let quiet = Duration.milliseconds(100)

    private let watcher: FileWatcher
    private let credential: String
    private let isJSON: Bool
    private let connect: () throws(ClientFailure) -> RelayConnection

    private var connection: RelayConnection?
    /// Changed files, with the moment from which they may be read; nil while somebody is writing.
    private var changed: [String: Deadline?] = [:]
    /// What was last pushed, or lay there at the start: a file that is touched and not changed is not pushed.
    private var known: [String: [UInt8]] = [:]
    private var retry: (after: Deadline, pause: Duration)?

    init(
        watcher: FileWatcher, credential: String, isJSON: Bool,
        connect: @escaping () throws(ClientFailure) -> RelayConnection
    ) {
        self.watcher = watcher
        self.credential = credential
        self.isJSON = isJSON
        self.connect = connect
    }

    func run(pushFirst: Bool) throws(ClientFailure) -> Never {
        connection = try connect()
        for file in watcher.files() {
            if pushFirst { changed[file] = .some(.now) } else { known[file] = digest(file) }
        }
        while true {
            wait()
            readConnection()
            for event in watcher.readEvents() { take(event) }
            pushQuiet()
        }
    }

    private func wait() {
        var descriptors = [pollfd(fd: watcher.fileDescriptor, events: Int16(POLLIN), revents: 0)]
        if let connection {
            if connection.hasBufferedInput { return }
            descriptors.append(pollfd(fd: connection.fileDescriptor, events: Int16(POLLIN), revents: 0))
        }
        var timeout: Int32 = -1
        func consider(_ milliseconds: Int32) { timeout = timeout < 0 ? milliseconds : min(timeout, milliseconds) }
        if let retry {
            consider(retry.after.pollMilliseconds)
        } else {
            for case .some(.some(let deadline)) in changed.values.map(Optional.some) {
                consider(deadline.pollMilliseconds)
            }
        }
        _ = poll(&descriptors, nfds_t(descriptors.count), timeout)
    }

    /// Answers pings, and notices when the relay goes away.
    private func readConnection() {
        guard let connection else { return }
        while true {
            switch connection.receive(until: .now) {
            case .message: continue
            case .timedOut: return
            case .closed(let failure):
                writeError(failure.description)
                self.connection = nil
                reconnectLater()
                return
            }
        }
    }

    private func take(_ event: FileWatcher.Event) {
        switch event {
        case .began(let path): changed[path] = .some(nil)
        case .finished(let path): changed[path] = .after(Self.quiet)
        case .removed(let path):
            changed[path] = nil
            known[path] = nil
            writeError("\(printable(path)) is gone; the relay keeps what it has loaded from it.")
        case .lost(let directory):
            writeError("\(printable(directory)) is gone and no longer watched.")
        case .overflow:
            for file in watcher.files() { changed[file] = .after(Self.quiet) }
        }
    }

    private func pushQuiet() {
        if let retry {
            guard retry.after.hasPassed else { return }
            do {
                connection = try connect()
                self.retry = nil
                writeError("Connected again.")
            } catch {
                return reconnectLater()
            }
        }
        let due = changed.filter { $0.value?.hasPassed ?? false }.keys.sorted()
        for path in due {
            guard let connection else { return }
            push(path, over: connection)
        }
    }

    private func push(_ path: String, over connection: RelayConnection) {
        let script: (name: String, source: String)
        do { script = try readScript(path) } catch {
            changed[path] = nil
            return writeError("Cannot push \(error).")
        }
        let digest = Array(script.source.utf8).withUnsafeBytes { Digest.sha256($0) }
        guard known[path] != digest else {
            changed[path] = nil
            return
        }
        do throws(ClientFailure) {
            let result = try connection.load(script, credential: credential)
            writeLine(isJSON ? result.json() : describeLoad(script.name, result))
            known[path] = digest
        } catch {
            writeError(error.description)
            // A relay that is gone has not answered: the file stays changed.
            if error.kind == .unreachable {
                self.connection = nil
                return reconnectLater()
            }
            // What was refused may be right later, without a change of its own: saving it again tries again.
            known[path] = nil
        }
        changed[path] = nil
    }

    private func reconnectLater() {
        let pause = min(retry.map { $0.pause * 2 } ?? .milliseconds(500), .seconds(10))
        retry = (.after(pause), pause)
    }

    private func digest(_ path: String) -> [UInt8]? {
        guard let bytes = try? readFile(path, maximumBytes: ScriptFile.maximumBytes) else { return nil }
        return bytes.withUnsafeBytes { Digest.sha256($0) }
    }
}
