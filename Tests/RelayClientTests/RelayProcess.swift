import Glibc
import Testing

@testable import RelayClient

/// A relay that runs as long as this is held: the executable that was built with the tests, on a free port, with a
/// state directory that goes with it.
final class RelayProcess {
    let url: String
    let credential: String
    private let process: pid_t
    private let directory: String
    private let output: Int32

    init() throws {
        var template = Array("/tmp/relayd-test-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        output = ends[0]
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
        let arguments = [
            "relayd", "serve", "--listen", "ws://127.0.0.1:0", "--state", directory, "--log-level", "error",
            "--drain-timeout", "1ms",
        ]
        var list = arguments.map { strdup($0) } + [nil]
        defer { for text in list { free(text) } }
        var process: pid_t = 0
        let status = posix_spawn(&process, try Self.executable(), &actions, nil, &list, environ)
        posix_spawn_file_actions_destroy(&actions)
        close(ends[1])
        try #require(status == 0)
        self.process = process
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(output, &byte, 1) == 1, byte != 0x0a { line.append(byte) }
        let text = String(decoding: line, as: UTF8.self)
        try #require(text.hasPrefix("listening "))
        url = String(text.dropFirst("listening ".count))
        let file = open(directory + "/admin.credential", O_RDONLY)
        defer { close(file) }
        var secret = [UInt8](repeating: 0, count: 256)
        let count = read(file, &secret, secret.count)
        credential = String(decoding: secret[..<max(0, count)].prefix { $0 > 0x20 }, as: UTF8.self)
    }

    deinit {
        kill(process, SIGTERM)
        var status: Int32 = 0
        waitpid(process, &status, 0)
        close(output)
        if let stream = opendir(directory) {
            while let entry = readdir(stream) {
                let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
                }
                unlink(directory + "/" + name)
            }
            closedir(stream)
        }
        rmdir(directory)
    }

    /// It lies beside the tests.
    private static func executable() throws -> String {
        var path = [CChar](repeating: 0, count: Int(PATH_MAX))
        let length = readlink("/proc/self/exe", &path, path.count)
        try #require(length > 0)
        let own = String(decoding: path[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return own.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/") + "/relayd"
    }
}
