import Testing

@testable import Relay

@Suite struct GlobTests {
    @Test(arguments: [
        ("*", "", true), ("*", "anything at all", true), ("box", "box", true), ("box", "boxes", false),
        ("box", "bo", false), ("box", "Box", false), ("b?x", "box", true), ("b?x", "bx", false), ("?", "é", true),
        ("?", "", false), ("??", "é", false), ("box-*", "box-", true), ("box-*", "box-1", true),
        ("box-*", "box", false),
        ("*-box", "a-box", true), ("*-box", "a-box-", false), ("a*b*c", "abc", true), ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false), ("**", "x", true), ("*?", "", false), ("*?", "日", true), ("?*?", "日", false),
        ("*aab", "aaaab", true), ("*ab*ab", "abab", true), ("*ab*ab", "ab", false), ("é*", "è", false),
        ("[ab]", "a", false), ("[ab]", "[ab]", true), ("\\*", "*", false), ("a b", "a b", true),
    ])
    func `a pattern stands for whole names`(pattern: String, name: String, expected: Bool) throws {
        #expect(try #require(Glob(pattern)).matches(name) == expected)
    }

    @Test(arguments: ["", "a\nb", "\u{7f}", String(repeating: "a", count: 257)])
    func `what is no pattern`(text: String) {
        #expect(Glob(text) == nil)
    }

    /// Exponential matchers take for ever on this; the test would not end.
    @Test func `many stars against a long name that almost matches`() throws {
        let pattern = try #require(Glob(String(repeating: "a*", count: 127) + "b"))
        #expect(!pattern.matches(String(repeating: "a", count: 5000)))
        #expect(pattern.matches(String(repeating: "a", count: 5000) + "b"))
    }
}

@Suite struct PortSetTests {
    @Test(arguments: [
        ("*", "*"), ("22", "22"), ("80,443", "80,443"), ("8000-8100", "8000-8100"), ("0", "0"), ("65535", "65535"),
        ("0-65535", "*"), ("443,80", "80,443"), ("1,2,3", "1-3"), ("5-9,1-6", "1-9"), ("7,7", "7"),
        ("65534,65535,0-3", "0-3,65534-65535"), ("007", "7"),
    ])
    func `a set prints in its shortest form, which reads back`(text: String, printed: String) throws {
        let set = try #require(PortSet(text))
        #expect(set.description == printed)
        #expect(PortSet(printed) == set)
    }

    @Test(arguments: [
        "", ",", "80,", ",80", "80,,81", "-", "80-", "-80", "90-80", "1-2-3", "65536", "+80", " 80", "80 ", "a", "0x50",
        "*,80", "²", "100000", Array(repeating: "1", count: 65).joined(separator: ","),
    ])
    func `what is no set`(text: String) {
        #expect(PortSet(text) == nil)
    }

    @Test func `membership at the edges`() throws {
        let set = try #require(PortSet("22,8000-8100"))
        let members = [0, 21, 22, 23, 7999, 8000, 8050, 8100, 8101, 65_535].filter { set.contains(UInt16($0)) }
        #expect(members == [22, 8000, 8050, 8100])
        #expect(PortSet.all.contains(0) && PortSet.all.contains(.max))
    }
}

@Suite struct RightTests {
    @Test(arguments: [
        "admin", "listen:*", "listen:box-?", "connect:box:22", "connect:*:*", "connect:a:b:80,443",
        "invoke:forward to *",
        "invoke:*",
    ])
    func `a right prints as it was written`(text: String) throws {
        #expect(try #require(Right(text)).description == text)
    }

    @Test(arguments: [
        "", "Admin", "admin:", "admin:*", "listen", "listen:", "connect", "connect:box", "connect:box:", "connect::80",
        "connect:box:x", "invoke:", "eval:*", " admin", "listen:a\u{1b}[0m",
    ])
    func `what is no right`(text: String) {
        #expect(Right(text) == nil)
    }

    @Test func `each right allows its own kind of access, admin all`() throws {
        let accesses: [Right.Access] = [
            .administer, .listen(.name("box")), .connect(.name("box"), port: 22), .connect(.name("box"), port: 23),
            .connect(.number(7), port: 22), .listen(.number(7)), .invoke("box"),
        ]
        func allowed(_ text: String) throws -> [Int] {
            let right = try #require(Right(text))
            return accesses.indices.filter { right.allows(accesses[$0]) }
        }
        #expect(try allowed("admin") == Array(accesses.indices))
        #expect(try allowed("listen:box") == [1])
        #expect(try allowed("listen:*") == [1, 5])
        #expect(try allowed("connect:*:22") == [2, 4])
        #expect(try allowed("connect:box:*") == [2, 3])
        #expect(try allowed("connect:7:22") == [4])
        #expect(try allowed("invoke:b*") == [6])
    }
}
