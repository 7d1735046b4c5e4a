import Glibc
import Testing

@testable import relayd

@Suite struct FileWatcherTests {
    /// inotify queues an event before the call that caused it returns, so nothing has to be waited for.
    private func events(_ watcher: FileWatcher) -> [FileWatcher.Event] {
        watcher.readEvents().filter {
            if case .began = $0 { false } else { true }
        }
    }

    @Test func `a file that is written is finished when its writer closes it, not before (case 24)`() throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("a.lua", "one")
        let watcher = try FileWatcher(paths: [file])
        let descriptor = open(file, O_WRONLY | O_TRUNC)
        try #require(write(descriptor, "half", 4) == 4)
        #expect(watcher.readEvents().allSatisfy { $0 == .began(path: file) })
        try #require(write(descriptor, "whole", 5) == 5)
        close(descriptor)
        #expect(watcher.readEvents().last == .finished(path: file))
    }

    @Test func `a file that is replaced by rename is finished, again and again (case 24)`() throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("a.lua", "one")
        let watcher = try FileWatcher(paths: [file])
        for _ in 0..<3 {
            let other = try directory.write("a.lua.new", "two")
            try #require(rename(other, file) == 0)
            #expect(events(watcher) == [.finished(path: file)])
        }
    }

    @Test func `of a directory Lua files are watched, hidden ones and others not`() throws {
        let directory = try TemporaryDirectory()
        let watcher = try FileWatcher(paths: [directory.path])
        let file = try directory.write("new.lua", "x")
        try directory.write("new.txt", "x")
        try directory.write(".#new.lua", "x")
        #expect(events(watcher) == [.finished(path: file)])
        #expect(watcher.files() == [file])
    }

    @Test func `a link that appears is finished at once`() throws {
        let directory = try TemporaryDirectory()
        let target = try directory.write("target", "x")
        let watcher = try FileWatcher(paths: [directory.path])
        let link = directory.path + "/link.lua"
        try #require(symlink(target, link) == 0)
        #expect(events(watcher) == [.finished(path: link)])
    }

    @Test func `a file that is deleted and a directory that goes are told (case 24)`() throws {
        let directory = try TemporaryDirectory()
        let file = try directory.write("a.lua", "one")
        let watcher = try FileWatcher(paths: [directory.path])
        unlink(file)
        #expect(events(watcher) == [.removed(path: file)])
        rmdir(directory.path)
        #expect(events(watcher) == [.lost(directory: directory.path)])
    }

    @Test func `what is not there is refused`() throws {
        let failure = #expect(throws: FileFailure.self) { try FileWatcher(paths: ["/no/such/file.lua"]) }
        #expect(failure?.description == "/no/such/file.lua: No such file or directory")
    }

    @Test func `a script is whole text or refused (case 23)`() throws {
        let directory = try TemporaryDirectory()
        #expect(try readScript(try directory.write("ok.lua", "return 1\r\n")).name == "ok.lua")
        let fifo = directory.path + "/fifo.lua"
        try #require(mkfifo(fifo, 0o600) == 0)
        for path in [
            try directory.write("bytes.lua", [0x1b, 0x4c, 0xff]), try directory.write("nul.lua", [0x20, 0x00]),
            fifo, directory.path, "/dev/zero",
        ] {
            #expect(throws: FileFailure.self) { try readScript(path) }
        }
    }
}
