import Testing

@testable import Relay

@Suite struct `node-livecode's lines` {
    private func plain(_ json: String?) -> String {
        guard let json else { return Livecode.plain(nil) }
        return Array(json.utf8).withUnsafeBytes { Livecode.plain($0) }
    }

    @Test func `they read as node-livecode writes them`() {
        #expect(Livecode.received("greet") == "server: received command 'greet'")
        #expect(Livecode.adding("greet") == "server: adding instruction 'greet'")
        #expect(Livecode.evaluating("greet") == "server: evaluating added instruction 'greet'")
        #expect(Livecode.returned("installed server") == "server: installed server")
        #expect(Livecode.rejected("greet") == "server: rejected command 'greet'")
        #expect(Livecode.rejectedMalformed("{") == "server: rejected malformed command{")
        #expect(Subprotocol.livecode.name == "livecode.v0")
    }

    @Test(arguments: [
        (#""hello""#, "hello"), (#""""#, ""), (#""a\"b\\c\nd""#, "a\"b\\c\nd"), (#""\u00e9\ud83d\ude00""#, "é😀"),
        (#""é""#, "é"), ("1", "1"), ("-0.5", "-0.5"), ("true", "true"), ("null", "null"),

        (#"{"a":"b"}"#, #"{"a":"b"}"#),
        (#"["x",1]"#, #"["x",1]"#), (#"["\n"]"#, #"["\n"]"#),
    ])
    func `a string is printed as it is, anything else as JSON`(json: String, text: String) {
        #expect(plain(json) == text)
    }

    @Test func `nothing is undefined`() {
        #expect(plain(nil) == "undefined")
        #expect(plain("") == "undefined")
    }

    @Test func `a long string comes out whole`() {
        let long = String(repeating: "é\\n", count: 100_000)
        #expect(plain("\"\(long)\"") == String(repeating: "é\n", count: 100_000))
    }
}
