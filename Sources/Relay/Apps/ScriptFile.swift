internal import CLinux
internal import Glibc

/// A script as it is on disk. The reader takes regular files only and stops at a size, so that a FIFO, a device or a
/// forgotten log file costs a sentence and not the start.
package struct ScriptFile {
    package let path: String
    /// The file's name without its folder: the script's name, and the `file` of its errors.
    package let name: String
    package let source: [UInt8]

    /// The largest script, as `messageBytes` bounds those that come over the admin channel.
    package static let maximumBytes = 1 << 20

    /// The scripts that `paths` name: files as they are, folders by their `*.lua` in the order of their names.
    package static func all(_ paths: [String]) throws(StartError) -> [ScriptFile] {
        var files: [ScriptFile] = []
        for path in paths {
            var status = stat()
            guard stat(path, &status) == 0 else {
                throw StartError("cannot read the script \(path): \(System.describe(errno: errno))")
            }
            guard status.st_mode & S_IFMT == S_IFDIR else {
                files.append(try ScriptFile(path: path))
                continue
            }
            for name in try luaFiles(in: path) { files.append(try ScriptFile(path: path + "/" + name)) }
        }
        return files
    }

    package init(path: String) throws(StartError) {
        // Non-blocking, so that opening a FIFO that nobody writes to returns.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw StartError("cannot read the script \(path): \(System.describe(errno: errno))")
        }
        defer { System.close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw StartError("cannot read the script \(path): it is no regular file")
        }
        guard status.st_size <= Self.maximumBytes else {
            throw StartError("cannot read the script \(path): it is larger than \(Self.maximumBytes) bytes")
        }
        var bytes: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 64 << 10)
        while bytes.count <= Self.maximumBytes {
            let count = read(descriptor, &block, block.count)
            if count == 0 { break }
            guard count > 0 else {
                if errno == EINTR { continue }
                throw StartError("cannot read the script \(path): \(System.describe(errno: errno))")
            }
            bytes.append(contentsOf: block[..<count])
        }
        self.path = path
        name = String(path.split(separator: "/").last ?? "script")
        source = bytes
    }

    private static func luaFiles(in folder: String) throws(StartError) -> [String] {
        guard let directory = opendir(folder) else {
            throw StartError("cannot read the folder \(folder): \(System.describe(errno: errno))")
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasSuffix(".lua"), !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }
}
