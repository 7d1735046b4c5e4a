import Testing

@testable import Relay

@Suite struct NameTableTests {
    private func look(_ name: [UInt8], in table: NameTable<Int>) -> Int? {
        name.withUnsafeBytes { table[$0] }
    }

    @Test func `an empty table has nothing, not even the empty name`() {
        let table = NameTable<Int>([])
        #expect(table[""] == nil)
        #expect(table["greet"] == nil)
        #expect(look([], in: table) == nil)
    }

    @Test func `names are found by their bytes, exactly`() {
        let table = NameTable([("greet", 1), ("greet ", 2), ("Greet", 3), ("", 4), ("forward to server", 5)])
        #expect(table["greet"] == 1)
        #expect(table["greet "] == 2)
        #expect(table["Greet"] == 3)
        #expect(table[""] == 4)
        #expect(table["forward to server"] == 5)
        #expect(table["gree"] == nil)
        #expect(table["greet\0"] == nil)
        #expect(look(Array("greet".utf8), in: table) == 1)
    }

    @Test func `names that look alike but have other bytes are other names`() {
        let table = NameTable([("caf\u{E9}", 1), ("cafe\u{301}", 2)])
        #expect(table["caf\u{E9}"] == 1)
        #expect(table["cafe\u{301}"] == 2)
    }

    @Test func `bytes that are no text find nothing, and do no harm`() {
        let table = NameTable([("greet", 1)])
        #expect(look([0xFF, 0xFE], in: table) == nil)
        #expect(look([UInt8](repeating: 0, count: 100_000), in: table) == nil)
    }

    @Test func `of a name that comes twice the first counts`() {
        let table = NameTable([("greet", 1), ("greet", 2)])
        #expect(table["greet"] == 1)
    }

    @Test(arguments: [1, 3, 4, 5, 8, 9, 1000, 20_000])
    func `every name of a full table is found, and its neighbours are not`(count: Int) {
        let table = NameTable((0..<count).map { (name: "instruction \($0)", value: $0) })
        for number in 0..<count { #expect(table["instruction \(number)"] == number) }
        for number in count..<count + 1000 { #expect(table["instruction \(number)"] == nil) }
    }
}
