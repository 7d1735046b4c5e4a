import Glibc
import Logging
import Testing

@testable import Relay

@Suite struct LogWriterTests {
    /// A pipe's ends; the write end is what a writer gets.
    static func makePipe() throws -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        return (ends[0], ends[1])
    }

    /// Everything until the last write end is closed.
    static func readAll(_ descriptor: Int32) -> String {
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            guard count > 0 else { break }
            bytes.append(contentsOf: buffer[..<count])
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test func `entries come out in order, whole, before stop returns`() throws {
        let (readEnd, writeEnd) = try Self.makePipe()
        defer { close(readEnd) }
        let writer = LogWriter(descriptor: writeEnd)
        let logger = writer.makeLogger()
        for number in 0..<100 { logger.info("entry", metadata: ["n": "\(number)"]) }
        writer.stop()
        close(writeEnd)
        let lines = Self.readAll(readEnd).split(separator: "\n")
        #expect(lines.count == 100)
        #expect(lines.enumerated().allSatisfy { $1.hasSuffix(" info  entry n=\($0)") })
    }

    @Test func `the level of every logger follows the writer's, live`() throws {
        let (readEnd, writeEnd) = try Self.makePipe()
        defer { close(readEnd) }
        let writer = LogWriter(descriptor: writeEnd, level: .warning)
        var stubborn = writer.makeLogger()
        stubborn.logLevel = .critical
        let logger = writer.makeLogger()
        logger.info("one")
        writer.level = .debug
        logger.debug("two")
        writer.format = .json
        logger.debug("three")
        stubborn.error("four")
        writer.stop()
        close(writeEnd)
        let lines = Self.readAll(readEnd).split(separator: "\n")
        #expect(lines.count == 2)
        #expect(lines.first?.hasSuffix("debug two") == true)
        #expect(lines.last?.hasSuffix("\"message\":\"three\"}") == true)
    }

    @Test func `a reader that is gone costs lines, never a signal or a wait (case 61)`() throws {
        let (readEnd, writeEnd) = try Self.makePipe()
        defer { close(writeEnd) }
        close(readEnd)
        let writer = LogWriter(descriptor: writeEnd)
        let logger = writer.makeLogger()
        logger.error("nobody reads this")
        writer.flush()
        logger.error("nor this")
        writer.stop()
        // That this line is reached is the point: the default action of SIGPIPE ends the process.
        #expect(writer.level == .info)
    }

    @Test func `a descriptor that is no file costs lines only`() {
        let writer = LogWriter(descriptor: -1)
        writer.makeLogger().error("lost")
        writer.stop()
        #expect(fcntl(-1, F_GETFD) == -1)
    }

    @Test func `a full file system costs lines only (case 61)`() throws {
        let full = open("/dev/full", O_WRONLY)
        try #require(full >= 0)
        defer { close(full) }
        let writer = LogWriter(descriptor: full)
        writer.makeLogger().error("lost")
        writer.flush()
        writer.stop()
        #expect(write(full, "x", 1) == -1 && errno == ENOSPC)
    }

    @Test func `a reader that stops reading blocks no caller, and what it missed is told (case 61)`() throws {
        let (readEnd, writeEnd) = try Self.makePipe()
        defer { close(readEnd) }
        let writer = LogWriter(descriptor: writeEnd)
        let logger = writer.makeLogger()
        let long = String(repeating: "x", count: 7000)
        for _ in 0..<900 { logger.error("\(long)") }
        // More than the queue and the pipe hold: the rest was counted. Reading makes room for the line that says so.
        let reader = PipeReader(readEnd)
        writer.stop(timeout: .seconds(60))
        close(writeEnd)
        let lines = reader.wait().split(separator: "\n")
        let last = try #require(lines.last)
        let dropped = 900 - (lines.count - 1)
        #expect(dropped > 0)
        #expect(last.contains("warning \(dropped) log lines dropped unwritable=\(dropped)"))
    }
}

/// Reads a descriptor to its end on a thread of its own.
private final class PipeReader: @unchecked Sendable {
    private let descriptor: Int32
    private var thread = pthread_t()
    // Unchecked: written by the thread, read after it was joined.
    private var text = ""

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
        pthread_create(
            &thread, nil,
            { context in
                let reader = Unmanaged<PipeReader>.fromOpaque(context!).takeUnretainedValue()  // Passed below.
                reader.text = LogWriterTests.readAll(reader.descriptor)
                return nil
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    func wait() -> String {
        pthread_join(thread, nil)
        return text
    }
}
