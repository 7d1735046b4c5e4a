import Glibc
import Testing

@testable import Relay

@Suite struct ScriptFileTests {
    private let directory = TemporaryDirectory()

    private func refusal(_ body: () throws(StartError) -> Void) -> String? {
        do {
            try body()
            return nil
        } catch {
            return "\(error)"
        }
    }

    @Test func `a file is its name and its bytes, whatever they are`() throws {
        let bytes: [UInt8] = [0xFF, 0, 10, 0xEF, 0xBB, 0xBF]
        let file = try ScriptFile(path: directory.write("a b.lua", bytes))
        #expect(file.name == "a b.lua")
        #expect(file.path == directory.file("a b.lua"))
        #expect(file.source == bytes)
        #expect(try ScriptFile(path: directory.write("empty.lua", "")).source == [])
    }

    @Test func `a file of the largest size is read whole, one byte more is refused`() throws {
        let most = [UInt8](repeating: UInt8(ascii: "-"), count: ScriptFile.maximumBytes)
        #expect(try ScriptFile(path: directory.write("most.lua", most)).source == most)
        let path = directory.write("more.lua", most + [0])
        #expect(refusal { () throws(StartError) in _ = try ScriptFile(path: path) }?.contains("larger than") == true)
    }

    @Test func `a folder stands for its Lua files in the order of their names`() throws {
        for name in ["b.lua", "a.lua", "10.lua", "c.txt", ".hidden.lua", "lua", "D.lua"] {
            directory.write(name, "-- \(name)")
        }
        let single = directory.write("c.txt", "-- single")
        let files = try ScriptFile.all([single, directory.path])
        #expect(files.map(\.name) == ["c.txt", "10.lua", "D.lua", "a.lua", "b.lua"])
        #expect(files.last?.source == Array("-- b.lua".utf8))
    }

    @Test func `nothing named is nothing loaded`() throws {
        #expect(try ScriptFile.all([]).isEmpty)
        #expect(try ScriptFile.all([directory.path]).isEmpty)
    }

    @Test func `what is not there is refused with its path`() {
        let path = directory.file("missing.lua")
        let reason = refusal { () throws(StartError) in _ = try ScriptFile.all([path]) }
        #expect(reason?.contains(path) == true)
        #expect(refusal { () throws(StartError) in _ = try ScriptFile(path: path) }?.contains(path) == true)
    }

    @Test func `a FIFO, a device or a folder is no script, and nobody waits for one`() {
        let fifo = directory.file("fifo.lua")
        #expect(mkfifo(fifo, 0o600) == 0)
        for path in [fifo, "/dev/zero", directory.path] {
            let reason = refusal { () throws(StartError) in _ = try ScriptFile(path: path) }
            #expect(reason?.contains("no regular file") == true, "\(path)")
        }
        // Among the files of a folder as well.
        #expect(refusal { () throws(StartError) in _ = try ScriptFile.all([directory.path]) } != nil)
    }

    @Test func `a link stands for the file that it leads to`() throws {
        let target = directory.write("target", "-- target")
        let link = directory.file("link.lua")
        #expect(symlink(target, link) == 0)
        let file = try ScriptFile(path: link)
        #expect(file.name == "link.lua")
        #expect(file.source == Array("-- target".utf8))
    }
}
