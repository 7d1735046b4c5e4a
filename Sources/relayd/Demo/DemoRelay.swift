import Glibc
import Relay
import RelayClient

/// A relay that runs for the time of a demo: a child process of this executable, with a state directory of its own
/// that is removed with it.
final class DemoRelay {
    let url: RelayURL
    let credential: String
    private let process: pid_t
    private let directory: String
    /// The child's standard output; its end closes with us.
    private let output: Int32
    private var isStopped = false

    init() throws(ClientFailure) {
        let directory = try Self.makeDirectory()
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else {
            rmdir(directory)
            throw .refused("Cannot start a relay for the demo: \(System.describe(errno: errno)).")
        }
        // The child gets the write end as its standard output, and neither of these two.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        let arguments = [
            "relayd", "serve", "--listen", "ws://127.0.0.1:0", "--state", directory, "--log-level", "warning",
            "--drain-timeout", "1s",
        ]
        let started = Self.spawn(arguments, standardOutput: ends[1])
        Glibc.close(ends[1])
        guard case .success(let process) = started else {
            Glibc.close(ends[0])
            rmdir(directory)
            throw .refused("Cannot start a relay for the demo: \(Self.reason(started)).")
        }
        do throws(ClientFailure) {
            let line = try Self.readLine(ends[0], .after(.seconds(10)))
            guard line.hasPrefix("listening ") else {
                throw .refused("The relay of the demo said \"\(printable(line))\" instead of where it listens.")
            }
            url = try RelayURL(parsing: String(line.dropFirst("listening ".count)))
            do { credential = try Self.readSecret(directory) } catch {
                throw .refused("Cannot read the credential of the demo's relay: \(error).")
            }
        } catch {
            Self.end(process, directory)
            Glibc.close(ends[0])
            throw error
        }
        self.directory = directory
        self.process = process
        output = ends[0]
    }

    deinit { stop() }

    /// Ends the process and removes its directory; once.
    func stop() {
        guard !isStopped else { return }
        isStopped = true
        Self.end(process, directory)
        Glibc.close(output)
    }

    private static func makeDirectory() throws(ClientFailure) -> String {
        let base = environmentVariable("TMPDIR") ?? "/tmp"
        var template = Array("\(base)/relayd-demo-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw .refused("Cannot make a directory in \(base): \(System.describe(errno: errno)).")
        }
        return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private struct SpawnFailure: Error { let errno: Int32 }

    private static func reason(_ result: Result<pid_t, SpawnFailure>) -> String {
        if case .failure(let failure) = result { return System.describe(errno: failure.errno) }
        return "unknown"
    }

    /// Starts this executable anew. The environment is passed without RELAYD_*: the demo's relay is nobody else's.
    private static func spawn(_ arguments: [String], standardOutput: Int32) -> Result<pid_t, SpawnFailure> {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, standardOutput, STDOUT_FILENO)
        let kept = currentEnvironment().filter { !$0.hasPrefix("RELAYD_") }
        var process: pid_t = 0
        let status = withCStrings(arguments) { argv in
            withCStrings(kept) { environment in
                posix_spawn(&process, "/proc/self/exe", &actions, nil, argv, environment)
            }
        }
        return status == 0 ? .success(process) : .failure(SpawnFailure(errno: status))
    }

    /// Lends an array of C strings with a null behind the last.
    private static func withCStrings<Result>(
        _ texts: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Result
    ) -> Result {
        let strings = texts.map { strdup($0) }
        defer { for string in strings { free(string) } }
        var list = strings + [nil]
        return list.withUnsafeMutableBufferPointer { buffer in
            // An array with at least the null has a base address.
            body(buffer.baseAddress!)
        }
    }

    private static func readLine(_ descriptor: Int32, _ deadline: Deadline) throws(ClientFailure) -> String {
        var line: [UInt8] = []
        while !line.contains(0x0a) {
            var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            let count = poll(&ready, 1, deadline.pollMilliseconds)
            guard count > 0 else {
                if count < 0, errno == EINTR { continue }
                throw .refused("The relay of the demo did not start within 10 s.")
            }
            var block = [UInt8](repeating: 0, count: 256)
            let length = read(descriptor, &block, block.count)
            guard length > 0 else {
                throw .refused("The relay of the demo ended before it listened; what it said is above.")
            }
            line += block[..<length]
        }
        return String(decoding: line.prefix { $0 != 0x0a }, as: UTF8.self)
    }

    private static func readSecret(_ directory: String) throws(FileFailure) -> String {
        let bytes = try readFile(directory + "/admin.credential", maximumBytes: 4096)
        return String(decoding: bytes.prefix { $0 > 0x20 }, as: UTF8.self)
    }

    /// SIGTERM, with nobody left to drain; SIGKILL where that is not obeyed within five seconds.
    private static func end(_ process: pid_t, _ directory: String) {
        kill(process, SIGTERM)
        let deadline = Deadline.after(.seconds(5))
        var status: Int32 = 0
        while waitpid(process, &status, WNOHANG) == 0 {
            if deadline.hasPassed {
                kill(process, SIGKILL)
                waitpid(process, &status, 0)
                break
            }
            usleep(10_000)
        }
        if let stream = opendir(directory) {
            while let entry = readdir(stream) {
                let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
                }
                if name != ".", name != ".." { unlink(directory + "/" + name) }
            }
            closedir(stream)
        }
        rmdir(directory)
    }
}
