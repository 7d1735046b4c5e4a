import CLinux
import Glibc
import Relay

/// Tells which of some files change, by inotify(7). A file is watched through its directory, so that replacing it by
/// rename, as editors do, is seen like a write. Of a directory all `*.lua` files are watched, also those that come
/// later; directories inside it are not.
final class FileWatcher {
    enum Event: Equatable {
        /// Somebody is writing: the file is not to be read yet.
        case began(path: String)
        /// A writer has closed the file, or another file has taken its place.
        case finished(path: String)
        case removed(path: String)
        /// The directory is gone; nothing in it is watched any more.
        case lost(directory: String)
        /// The kernel has dropped events: anything may have changed.
        case overflow
    }

    private struct Directory {
        let path: String
        /// The files that are watched; nil for all `*.lua`.
        var names: Set<String>?
    }

    let fileDescriptor: Int32
    private var directories: [Int32: Directory] = [:]

    private static let mask = UInt32(
        IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_MODIFY | IN_CREATE | IN_DELETE | IN_DELETE_SELF
            | IN_MOVE_SELF | IN_ONLYDIR)

    init(paths: [String]) throws(FileFailure) {
        let descriptor = inotify_init1(Int32(IN_CLOEXEC) | Int32(IN_NONBLOCK))
        guard descriptor >= 0 else {
            throw FileFailure(description: "inotify: \(System.describe(errno: errno))")
        }
        fileDescriptor = descriptor
        for path in paths { try add(path) }
    }

    deinit { close(fileDescriptor) }

    private func add(_ path: String) throws(FileFailure) {
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw FileFailure(description: "\(path): \(System.describe(errno: errno))")
        }
        let isDirectory = status.st_mode & S_IFMT == S_IFDIR
        let directory = isDirectory ? path : Self.parent(of: path)
        let watch = inotify_add_watch(fileDescriptor, directory, Self.mask)
        guard watch >= 0 else {
            let reason =
                errno == ENOSPC ? "too many watches (fs.inotify.max_user_watches)" : System.describe(errno: errno)
            throw FileFailure(description: "\(directory): \(reason)")
        }
        // One directory has one watch, however often and by whatever path it is added.
        var entry = directories[watch] ?? Directory(path: directory, names: [])
        if isDirectory { entry.names = nil } else { entry.names?.insert(fileName(of: path)) }
        directories[watch] = entry
    }

    static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private static func join(_ directory: String, _ name: String) -> String {
        directory == "." ? name : directory.hasSuffix("/") ? directory + name : directory + "/" + name
    }

    /// The watched files that exist now, sorted.
    func files() -> [String] {
        var found: Set<String> = []
        for directory in directories.values {
            guard let stream = opendir(directory.path) else { continue }
            defer { closedir(stream) }
            while let entry = readdir(stream) {
                let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
                }
                if Self.isWatched(name, in: directory) { found.insert(Self.join(directory.path, name)) }
            }
        }
        return found.sorted()
    }

    private static func isWatched(_ name: String, in directory: Directory) -> Bool {
        directory.names.map { $0.contains(name) } ?? (name.hasSuffix(".lua") && !name.hasPrefix("."))
    }

    /// What has happened since the last call; does not wait.
    func readEvents() -> [Event] {
        var events: [Event] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = read(fileDescriptor, &buffer, buffer.count)
            guard count > 0 else {
                if count < 0, errno == EINTR { continue }
                return events
            }
            buffer.withUnsafeBytes { bytes in
                var offset = 0
                // struct inotify_event: i32 wd, u32 mask, u32 cookie, u32 length of the name, then the name with NULs.
                while offset + 16 <= count {
                    let watch = bytes.loadUnaligned(fromByteOffset: offset, as: Int32.self)
                    let mask = bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self)
                    let length = Int(bytes.loadUnaligned(fromByteOffset: offset + 12, as: UInt32.self))
                    let name = bytes[(offset + 16)..<min(offset + 16 + length, count)].prefix { $0 != 0 }
                    offset += 16 + length
                    if let event = event(watch, mask, String(decoding: name, as: UTF8.self)) { events.append(event) }
                }
            }
        }
    }

    private func event(_ watch: Int32, _ mask: UInt32, _ name: String) -> Event? {
        func has(_ bit: Int32) -> Bool { mask & UInt32(bitPattern: bit) != 0 }
        if has(IN_Q_OVERFLOW) { return .overflow }
        guard let directory = directories[watch] else { return nil }
        if has(IN_DELETE_SELF) || has(IN_MOVE_SELF) || has(IN_IGNORED) || has(IN_UNMOUNT) {
            directories[watch] = nil
            return .lost(directory: directory.path)
        }
        guard !has(IN_ISDIR), Self.isWatched(name, in: directory) else { return nil }
        let path = Self.join(directory.path, name)
        if has(IN_CLOSE_WRITE) || has(IN_MOVED_TO) { return .finished(path: path) }
        if has(IN_DELETE) || has(IN_MOVED_FROM) { return .removed(path: path) }
        guard has(IN_CREATE) else { return .began(path: path) }
        // A link is whole as soon as it is there: nobody writes to it and closes it.
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        let isLink = status.st_mode & S_IFMT == S_IFLNK || status.st_nlink > 1
        return isLink ? .finished(path: path) : .began(path: path)
    }
}
