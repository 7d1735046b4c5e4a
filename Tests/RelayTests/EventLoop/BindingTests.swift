import Glibc
import Testing

@testable import Relay

@Suite struct `Listening sockets` {
    private func refusal(_ body: () throws(StartError) -> Void) -> String? {
        do {
            try body()
            return nil
        } catch {
            return "\(error)"
        }
    }

    /// Connects, and returns which of the listeners accepts it, with the address that it sees.
    private func accepting(
        _ listeners: [Int32], _ family: Int32, _ storage: sockaddr_storage, length: Int
    ) throws -> (listener: Int32, address: SocketAddress) {
        let client = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        try #require(client >= 0)
        defer { System.close(client) }
        let code = withUnsafeBytes(of: storage) {
            connect(client, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(length))
        }
        try #require(code == 0, "\(System.describe(errno: errno))")
        var descriptors = listeners.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        try #require(poll(&descriptors, nfds_t(descriptors.count), 30_000) == 1)
        let listener = try #require(descriptors.first { $0.revents != 0 }).fd
        guard case .accepted(let accepted, let address) = System.accept(listener) else {
            throw StartError("nothing to accept")
        }
        System.close(accepted)
        return (listener, address)
    }

    private func loopback(_ port: Int) -> sockaddr_storage {
        var storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) {
            $0.storeBytes(
                of: sockaddr_in(
                    sin_family: sa_family_t(AF_INET), sin_port: UInt16(port).bigEndian,
                    sin_addr: in_addr(s_addr: UInt32(0x7F00_0001).bigEndian), sin_zero: (0, 0, 0, 0, 0, 0, 0, 0)),
                as: sockaddr_in.self)
        }
        return storage
    }

    private func local(_ path: String) -> sockaddr_storage {
        var storage = sockaddr_storage()
        storage.ss_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &storage) {
            UnsafeMutableRawBufferPointer(rebasing: $0[2...]).copyBytes(from: path.utf8)
        }
        return storage
    }

    // MARK: TCP

    @Test func `port 0 becomes one free port, which all sockets share`() throws {
        let bound = try Binding.tcp(host: "127.0.0.1", port: 0, count: 3)
        defer { bound.descriptors.forEach(System.close) }
        #expect(bound.port > 0)
        #expect(Set(bound.descriptors).count == 3)
        let made = try accepting(
            bound.descriptors, AF_INET, loopback(bound.port), length: MemoryLayout<sockaddr_in>.size)
        #expect(made.address.host == "127.0.0.1")
        #expect(made.address.port != 0)
    }

    @Test func `accepting never blocks`() throws {
        let bound = try Binding.tcp(host: "127.0.0.1", port: 0, count: 1)
        defer { bound.descriptors.forEach(System.close) }
        guard case .wouldBlock = System.accept(bound.descriptors[0]) else {
            Issue.record("accept did not say that it would block")
            return
        }
    }

    @Test func `a port that another relay has is in use, although its sockets would share it`() throws {
        let bound = try Binding.tcp(host: "127.0.0.1", port: 0, count: 2)
        defer { bound.descriptors.forEach(System.close) }
        let reason = refusal { () throws(StartError) in
            _ = try Binding.tcp(host: "127.0.0.1", port: bound.port, count: 2)
        }
        #expect(reason == "cannot listen on 127.0.0.1:\(bound.port): the port is in use")
    }

    @Test func `a port that was given up can be had at once`() throws {
        let bound = try Binding.tcp(host: "127.0.0.1", port: 0, count: 1)
        _ = try accepting(bound.descriptors, AF_INET, loopback(bound.port), length: MemoryLayout<sockaddr_in>.size)
        bound.descriptors.forEach(System.close)
        let again = try Binding.tcp(host: "127.0.0.1", port: bound.port, count: 1)
        #expect(again.port == bound.port)
        again.descriptors.forEach(System.close)
    }

    @Test func `an address that this machine does not have is refused with the reason`() {
        // 192.0.2.0/24 is for documentation (RFC 5737): no machine has one.
        let reason = refusal { () throws(StartError) in
            _ = try Binding.tcp(host: "192.0.2.1", port: 0, count: 1)
        }
        #expect(reason?.hasPrefix("cannot listen on 192.0.2.1:0: ") == true)
    }

    // MARK: Unix sockets

    private let directory = TemporaryDirectory()

    @Test func `only this user can connect to a Unix socket`() throws {
        let descriptor = try Binding.unix(path: directory.file("relay"))
        defer { System.close(descriptor) }
        #expect(directory.permissions("relay") == 0o600)
        let made = try accepting(
            [descriptor], AF_UNIX, local(directory.file("relay")), length: MemoryLayout<sockaddr_un>.size)
        #expect(made.address == .unix)
    }

    @Test func `a socket that somebody listens on is left alone, one that nobody does is replaced`() throws {
        let path = directory.file("relay")
        let first = try Binding.unix(path: path)
        let reason = refusal { () throws(StartError) in _ = try Binding.unix(path: path) }
        #expect(reason == "cannot listen on unix:\(path): the file exists and is in use")
        System.close(first)
        let second = try Binding.unix(path: path)
        defer { System.close(second) }
        _ = try accepting([second], AF_UNIX, local(path), length: MemoryLayout<sockaddr_un>.size)
    }

    @Test func `a file that is no socket is never removed`() {
        let path = directory.write("notes", "keep me")
        #expect(refusal { () throws(StartError) in _ = try Binding.unix(path: path) } != nil)
        #expect(directory.text("notes") == "keep me")
        // Nor is a link to one, or to nowhere.
        #expect(symlink("nowhere", directory.file("link")) == 0)
        #expect(refusal { () throws(StartError) in _ = try Binding.unix(path: directory.file("link")) } != nil)
        #expect(directory.names == ["link", "notes"])
    }

    @Test func `a path has to fit, with the byte behind it`() throws {
        let room = 107 - directory.path.utf8.count - 1
        try #require(room > 0, "the temporary directory's own path is too long")
        let longest = directory.file(String(repeating: "x", count: room))
        System.close(try Binding.unix(path: longest))
        let reason = refusal { () throws(StartError) in _ = try Binding.unix(path: longest + "x") }
        #expect(reason?.contains("longer than 107 bytes") == true)
    }

    @Test func `a folder that is not there is refused with the reason`() {
        let path = directory.file("missing/relay")
        let reason = refusal { () throws(StartError) in _ = try Binding.unix(path: path) }
        #expect(reason?.hasPrefix("cannot listen on unix:\(path): ") == true)
    }
}
