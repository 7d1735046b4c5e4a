import Foundation
import Relay
import Testing

@testable import Scripting

/// Runs the Lua files of Resources through the real engine: `libraries/` assert what the standard library does, those
/// of `hostile/` must each end with the error that their first line names.
@Suite struct LibraryTests {
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("Resources/libraries")

    private static func files(_ folder: URL) -> [String] {
        let files = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        return files.filter { $0.hasSuffix(".lua") }.sorted()
    }

    @Test func `the files are there`() {
        #expect(LibraryTests.files(LibraryTests.folder).count > 3)
        #expect(LibraryTests.files(LibraryTests.folder.appendingPathComponent("hostile")).count > 20)
    }

    @Test(arguments: files(folder)) func `the standard library keeps its promises`(file: String) throws {
        let bench = try Bench()
        let source = try String(contentsOf: LibraryTests.folder.appendingPathComponent(file), encoding: .utf8)
        let ending = bench.eval(source)
        #expect(ending.failure == nil, "\(file): \(ending)")
    }

    @Test(arguments: files(folder.appendingPathComponent("hostile")))
    func `a hostile use of the standard library ends with an error`(file: String) throws {
        let source = try String(
            contentsOf: LibraryTests.folder.appendingPathComponent("hostile").appendingPathComponent(file),
            encoding: .utf8)
        let marker = "-- expect: "
        let first = try #require(source.split(separator: "\n").first)
        #expect(first.hasPrefix(marker))
        let expected = first.dropFirst(marker.count)
        // A limit of the library's own must be met on a slow machine, too.
        let bench = try Bench { $0.burst = expected == "budget exceeded" ? .milliseconds(2) : .seconds(10) }
        let failure = try #require(bench.eval(source).failure)
        #expect(failure.message.contains(expected), "\(file): \(failure)")
        #expect(bench.eval("('fine'):upper()") == .returned(#""FINE""#))
    }
}
