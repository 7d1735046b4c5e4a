import Glibc

/// Why a file operation failed: what was tried, on what, and the system's reason.
struct FileFailure: Error, Equatable {
    var path: String
    /// A verb phrase that fits "cannot ACTION PATH".
    var action: String
    var reason: String
    /// The system's error number; 0 where the rule that was broken is ours.
    var code: Int32

    /// There is no such file.
    var isMissing: Bool { code == ENOENT }

    init(path: String, action: String, code: Int32) {
        self.path = path
        self.action = action
        self.reason = String(cString: strerror(code))
        self.code = code
    }

    init(path: String, action: String, reason: String) {
        self.path = path
        self.action = action
        self.reason = reason
        self.code = 0
    }
}

/// Small files that are read and replaced whole: keys, certificates, credentials. Blocking; for start, reload and the
/// control plane only.
enum StateFile {
    /// A file's bytes and its permission bits, as they were at one moment.
    struct Contents {
        var bytes: [UInt8]
        /// The low nine bits of the mode.
        var permissions: UInt32
    }

    /// Reads a regular file of at most `maximumBytes`. Never waits for a writer, whatever kind of file it is.
    static func read(_ path: String, maximumBytes: Int = 1 << 20) throws(FileFailure) -> Contents {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw FileFailure(path: path, action: "read", code: errno) }
        defer { close(descriptor) }
        var facts = stat()
        guard fstat(descriptor, &facts) == 0 else { throw FileFailure(path: path, action: "read", code: errno) }
        guard facts.st_mode & S_IFMT == S_IFREG else {
            throw FileFailure(path: path, action: "read", reason: "it is not a regular file")
        }
        // One byte more than allowed tells a file that is too long from one that just fits, even while it grows.
        var bytes = [UInt8](repeating: 0, count: min(max(Int(facts.st_size), 0), maximumBytes) + 1)
        var count = 0
        while true {
            let got = bytes.withUnsafeMutableBytes { buffer in
                Glibc.read(descriptor, buffer.baseAddress! + count, buffer.count - count)  // Never empty, see above.
            }
            if got < 0 {
                if errno == EINTR { continue }
                throw FileFailure(path: path, action: "read", code: errno)
            }
            if got == 0 { break }
            count += got
            guard count <= maximumBytes else {
                throw FileFailure(path: path, action: "read", reason: "it is longer than \(maximumBytes) bytes")
            }
            if count == bytes.count { bytes.append(contentsOf: repeatElement(0, count: 4096)) }
        }
        bytes.removeLast(bytes.count - count)
        return Contents(bytes: bytes, permissions: facts.st_mode & 0o777)
    }

    /// Puts `bytes` under `path` with mode 0600, all or nothing: a temporary file in the same directory is written,
    /// synced and renamed, then the directory is synced. Once this returns, the bytes survive a power cut; when it
    /// throws, or the process dies inside, whatever was there before still is.
    /// One writer at a time: the temporary name is fixed, so that a crash leaves at most one stale file.
    static func replace(_ path: String, with bytes: [UInt8]) throws(FileFailure) {
        let temporary = path + ".new"
        unlink(temporary)
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw FileFailure(path: path, action: "write", code: errno) }
        do throws(FileFailure) {
            defer { close(descriptor) }
            // The mode given to open(2) is narrowed by the process's umask; this makes it exact.
            guard fchmod(descriptor, 0o600) == 0 else { throw FileFailure(path: path, action: "write", code: errno) }
            try write(bytes, to: descriptor, path: path)
            guard fsync(descriptor) == 0 else { throw FileFailure(path: path, action: "write", code: errno) }
        } catch {
            unlink(temporary)
            throw error
        }
        guard rename(temporary, path) == 0 else {
            let failure = FileFailure(path: path, action: "write", code: errno)
            unlink(temporary)
            throw failure
        }
        try syncDirectory(of: path)
    }

    /// Makes `path` a directory that only its owner can enter, with its parents. One that exists stays as it is.
    static func makeDirectory(_ path: String) throws(FileFailure) {
        if mkdir(path, 0o700) == 0 { return }
        let code = errno
        switch code {
        case EEXIST:
            var facts = stat()
            guard stat(path, &facts) == 0 else { throw FileFailure(path: path, action: "use", code: errno) }
            guard facts.st_mode & S_IFMT == S_IFDIR else {
                throw FileFailure(path: path, action: "use", reason: "it is not a directory")
            }
        case ENOENT:
            guard let parent = parentDirectory(of: path), parent != path else {
                throw FileFailure(path: path, action: "make the directory", code: code)
            }
            try makeDirectory(parent)
            guard mkdir(path, 0o700) == 0 || errno == EEXIST else {
                throw FileFailure(path: path, action: "make the directory", code: errno)
            }
        default:
            throw FileFailure(path: path, action: "make the directory", code: code)
        }
    }

    /// Waits for an exclusive lock on a directory's own lock file and returns what `unlock` takes. Every holder does a
    /// few file operations and lets go; the system lets go for one that dies.
    static func lock(_ directory: String) throws(FileFailure) -> Int32 {
        let path = directory + "/lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw FileFailure(path: path, action: "lock", code: errno) }
        while flock(descriptor, LOCK_EX) != 0 {
            guard errno == EINTR else {
                let failure = FileFailure(path: path, action: "lock", code: errno)
                close(descriptor)
                throw failure
            }
        }
        return descriptor
    }

    static func unlock(_ lock: Int32) { close(lock) }

    /// The directory part of a path: "." where there is none, nil for an empty path.
    private static func parentDirectory(of path: String) -> String? {
        var trimmed = Substring(path)
        while trimmed.count > 1, trimmed.last == "/" { trimmed.removeLast() }
        guard !trimmed.isEmpty else { return nil }
        guard let slash = trimmed.lastIndex(of: "/") else { return "." }
        return slash == trimmed.startIndex ? "/" : String(trimmed[..<slash])
    }

    private static func write(_ bytes: [UInt8], to descriptor: Int32, path: String) throws(FileFailure) {
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { buffer in
                // SAFETY: `written` is below the count, so the array is not empty and the address is inside it.
                Glibc.write(descriptor, buffer.baseAddress! + written, buffer.count - written)
            }
            if count < 0 {
                if errno == EINTR { continue }
                throw FileFailure(path: path, action: "write", code: errno)
            }
            written += count
        }
    }

    /// A rename is durable once its directory is.
    private static func syncDirectory(of path: String) throws(FileFailure) {
        let directory = parentDirectory(of: path) ?? "."
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileFailure(path: path, action: "write", code: errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw FileFailure(path: path, action: "write", code: errno) }
    }
}
