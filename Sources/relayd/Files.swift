import Glibc
import Relay

/// Why a file cannot be used: `PATH: REASON`.
struct FileFailure: Error, CustomStringConvertible {
    let description: String
}

/// A whole regular file. What is none (a FIFO, a device, a directory) is refused, not waited for.
func readFile(_ path: String, maximumBytes: Int) throws(FileFailure) -> [UInt8] {
    // Non-blocking, so that opening a FIFO that nobody writes to returns.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw FileFailure(description: "\(path): \(System.describe(errno: errno))") }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
        throw FileFailure(description: "\(path): not a regular file")
    }
    var bytes: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 64 << 10)
    while true {
        let count = read(descriptor, &block, block.count)
        if count == 0 { return bytes }
        guard count > 0 else {
            if errno == EINTR { continue }
            throw FileFailure(description: "\(path): \(System.describe(errno: errno))")
        }
        bytes.append(contentsOf: block[..<count])
        guard bytes.count <= maximumBytes else {
            throw FileFailure(description: "\(path): larger than \(maximumBytes) bytes")
        }
    }
}

/// The last part of a path.
func fileName(of path: String) -> String { String(path.split(separator: "/").last ?? "") }

/// A script as the relay takes it: text. The name is the file's.
func readScript(_ path: String) throws(FileFailure) -> (name: String, source: String) {
    let bytes = try readFile(path, maximumBytes: ScriptFile.maximumBytes)
    guard let source = String(validating: bytes, as: UTF8.self) else {
        throw FileFailure(description: "\(path): not UTF-8 text")
    }
    guard !bytes.contains(0) else { throw FileFailure(description: "\(path): holds a NUL byte") }
    return (fileName(of: path), source)
}
