import Glibc

/// The `openssl` command line: a peer and a judge that we did not write.
enum OpenSSLCommand {
    struct Outcome {
        var status: Int32
        /// Standard output and standard error together.
        var output: String
    }

    /// A command that runs. Its three standard streams are one socket: a pair that is made with SOCK_CLOEXEC cannot
    /// leak into the commands of other tests, which would keep it open.
    struct Running {
        let process: pid_t
        let socket: Int32

        func write(_ text: String) {
            let bytes = Array(text.utf8)
            _ = send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        }

        /// Reads output until `mark` is in it; returns what came so far where the output ends first.
        func read(until mark: String) -> String {
            var text = ""
            while !text.contains(mark), let more = readSome() { text += more }
            return text
        }

        /// Closes its standard input, reads to the end and waits.
        func finish() -> Outcome {
            shutdown(socket, Int32(SHUT_WR))
            var text = ""
            while let more = readSome() { text += more }
            close(socket)
            var status: Int32 = 0
            while waitpid(process, &status, 0) < 0, errno == EINTR {}
            return Outcome(status: status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + status & 0x7f, output: text)
        }

        private func readSome() -> String? {
            var block = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = Glibc.read(socket, &block, block.count)
                if count > 0 { return String(decoding: block[..<count], as: UTF8.self) }
                if count < 0, errno == EINTR { continue }
                return nil
            }
        }
    }

    struct CannotStart: Error {
        var reason: String
    }

    static func run(_ arguments: [String]) throws -> Outcome { try start(arguments).finish() }

    static func start(_ arguments: [String]) throws -> Running {
        var pair: [Int32] = [0, 0]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
            throw CannotStart(reason: String(cString: strerror(errno)))
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for stream in 0..<Int32(3) { posix_spawn_file_actions_adddup2(&actions, pair[1], stream) }
        var words: [UnsafeMutablePointer<CChar>?] = (["openssl"] + arguments).map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var process: pid_t = 0
        let code = posix_spawnp(&process, "openssl", &actions, nil, &words, environ)
        close(pair[1])
        guard code == 0 else {
            close(pair[0])
            throw CannotStart(reason: String(cString: strerror(code)))
        }
        return Running(process: process, socket: pair[0])
    }
}
