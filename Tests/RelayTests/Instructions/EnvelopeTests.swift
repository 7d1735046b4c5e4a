import Testing

@testable import Relay

/// What `Envelope.parse` found, as text.
private struct Found: Equatable {
    var instruction: String
    var parameters: String?
    var credential: String?
    var id: String?
}

@Suite struct `Instruction envelope` {
    private func found(_ text: String) -> Found? {
        Array(text.utf8).withUnsafeBytes { bytes in
            guard case .instruction(let envelope) = Envelope.parse(bytes) else { return nil }
            func raw(_ range: Range<Int>?) -> String? { range.map { String(decoding: bytes[$0], as: UTF8.self) } }
            func decoded(_ slice: JSONStringSlice) -> String {
                String(decoding: slice.decoded(in: bytes), as: UTF8.self)
            }
            return Found(
                instruction: decoded(envelope.instruction), parameters: raw(envelope.parameters),
                credential: envelope.credential.map(decoded), id: raw(envelope.id))
        }
    }

    private func verdict(_ text: String) -> String {
        Array(text.utf8).withUnsafeBytes { bytes in
            switch Envelope.parse(bytes) {
            case .instruction: return "instruction"
            case .notInstruction: return "not"
            case .malformed(let malformed):
                let id = malformed.id.map { String(decoding: bytes[$0], as: UTF8.self) }
                return "malformed: \(malformed)" + (id.map { " [\($0)]" } ?? "")
            }
        }
    }

    @Test func `all four members are found, in any order, among others and whitespace`() {
        #expect(found(#"{"instruction":"x"}"#) == Found(instruction: "x"))
        #expect(
            found(#"{"instruction":"forward to client","parameters":[1,"a"],"credential":"s","id":7}"#)
                == Found(instruction: "forward to client", parameters: #"[1,"a"]"#, credential: "s", id: "7"))
        #expect(
            found(
                " \t\r\n{ \"id\" : { \"a\" : [ ] } , \"other\" : [ { } , null ] , "
                    + "\"parameters\" : { \"instruction\" : 1 } , \"instruction\" : \"x\" } \n"
            )
                == Found(instruction: "x", parameters: "{ \"instruction\" : 1 }", id: "{ \"a\" : [ ] }"))
    }

    @Test func `null stands for nothing`() {
        #expect(found(#"{"instruction":"x","parameters":null,"credential":null,"id":null}"#) == Found(instruction: "x"))
        #expect(found(#"{"instruction":"x","id":false}"#)?.id == "false")
        #expect(found(#"{"instruction":"x","id":"null"}"#)?.id == "\"null\"")
    }

    @Test func `the last of members with one name counts`() {
        #expect(
            found(#"{"instruction":5,"id":1,"parameters":[1],"instruction":"x","id":null,"parameters":{}}"#)
                == Found(instruction: "x", parameters: "{}"))
        #expect(verdict(#"{"instruction":"x","instruction":5}"#) == "malformed: \"instruction\" is not a string")
    }

    @Test func `escapes are decoded, in names of members too`() {
        #expect(
            found(#"{"instr\u0075ction":"a\"\\\/\b\f\n\r\t\u00e9\u20AC\ud834\udd1e"}"#)?.instruction
                == "a\"\\/\u{8}\u{C}\n\r\té€𝄞")
        #expect(found(#"{"instruction":"x","credenti\u0061l":"\u0000"}"#)?.credential == "\0")
        #expect(found(#"{"instruction":""}"#)?.instruction == "")
        #expect(found(#"{"instruction":"日本 𝄞"}"#)?.instruction == "日本 𝄞")
    }

    @Test(arguments: [
        "", " ", "hello", "7", "null", "[1,2", "[{\"instruction\":\"x\"}]", "\"{\"", "{}", " { } ", "{\"a\":1}",
        "{\"Instruction\":\"x\"}",
        "{\"instructio\":\"x\"}", "{\"instruction \":\"x\"}", "{\"parameters\":5}", "{\"a\":{\"instruction\":\"x\"}}",
    ])
    func `other text is no instruction`(_ text: String) { #expect(verdict(text) == "not") }

    @Test func `a member of the wrong type is malformed, and the id is told where it can be`() {
        #expect(verdict(#"{"instruction":5,"id":[1]}"#) == "malformed: \"instruction\" is not a string [[1]]")
        #expect(verdict(#"{"instruction":null}"#) == "malformed: \"instruction\" is not a string")
        // What parameters must be is for the one who takes them to say.
        for value in ["5", "\"x\"", "true"] {
            #expect(
                found("{\"instruction\":\"x\",\"parameters\":\(value),\"id\":\"a\"}")
                    == Found(instruction: "x", parameters: value, id: "\"a\""))
        }
        for value in ["5", "[]", "{}", "false"] {
            #expect(
                verdict("{\"instruction\":\"x\",\"credential\":\(value)}")
                    == "malformed: \"credential\" is not a string")
        }
    }

    @Test(arguments: [
        "{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{,}", "{\"a\" 1}",
        "{\"a\"::1}", "{a:1}", "{'a':1}",
        "{\"a\":1}}", "{\"a\":1} x", "{\"a\":1}{}", "{\"a\":[1,]}", "{\"a\":[,1]}", "{\"a\":[1 2]}", "{\"a\":[1}",
        "{\"a\":{]}", "{\"a\":[}",
        "{\"a\":01}", "{\"a\":-}", "{\"a\":+1}", "{\"a\":1.}", "{\"a\":.5}", "{\"a\":1e}", "{\"a\":1e+}", "{\"a\":0x1}",
        "{\"a\":NaN}",
        "{\"a\":-01}", "{\"a\":00}", "{\"a\":1.5.5}", "{\"a\":tru}", "{\"a\":True}", "{\"a\":nulll}",
        "{\"a\":undefined}", "{\"a\":Infinity}",
        "{\"a\":\"\\x\"}", "{\"a\":\"\\u12\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\\ud834\"}", "{\"a\":\"\\ud834x\"}",
        "{\"a\":\"\\ud834\\n\"}",
        "{\"a\":\"\\ud834\\u0041\"}", "{\"a\":\"\\udd1e\"}", "{\"a\":\"\\\"}", "{\"a\":\"\n\"}", "{\"a\":\"\t\"}",
        "{\"a\":\"\0\"}", "{\"a\":\"x}",
        "{\"a\":1 /* no */}", "{\"a\":1}\u{A0}", "{\u{B}}", "{\"a\":\"12345678\u{1F}\"}",
    ])
    func `broken objects are malformed`(_ text: String) {
        #expect(verdict(text).hasPrefix("malformed: The message is no valid JSON: "))
        // Behind a valid instruction as well: nothing of a broken text is believed.
        #expect(
            verdict("{\"instruction\":\"x\",\"id\":1,\"b\":[" + text.dropFirst()).hasPrefix(
                "malformed: The message is no valid JSON: "))
    }

    @Test(arguments: [
        "0", "-0", "1", "-1", "10", "1.5", "0.5", "-0.0", "1e5", "1E+5", "1e-05", "123456789012345678901234567890",
        "true", "false", "null", "\"\"",
        "[]", "[[],[[]],{}]", "{\"\":0}", "[1,2,3]", "[ 1 , \"a,]\" , { \"b\" : [ ] } ]", "\"\\u0000\"",
        "\"\\ud83d\\ude00\"", "\"\u{7F}\"",
    ])
    func `every form of value is skipped to its end`(_ value: String) {
        #expect(found("{\"instruction\":\"x\",\"id\":\(value)}")?.id == (value == "null" ? nil : value))
        #expect(found("{\"a\":[\(value),\(value)],\"id\":[\(value)],\"instruction\":\"x\"}")?.id == "[\(value)]")
    }

    @Test func `objects and arrays nest 64 deep, the envelope among them, and no deeper`() {
        func nested(_ depth: Int, _ open: String, _ close: String) -> String {
            "{\"instruction\":\"x\",\"a\":" + String(repeating: open, count: depth) + "1"
                + String(repeating: close, count: depth) + "}"
        }
        #expect(verdict(nested(63, "[", "]")) == "instruction")
        #expect(verdict(nested(63, "{\"b\":", "}")) == "instruction")
        #expect(
            verdict(nested(64, "[", "]"))
                == "malformed: The message is no valid JSON: it is nested deeper than 64 levels")
        #expect(verdict(nested(100_000, "[", "]")).hasSuffix("64 levels"))
        // The kinds of all levels are remembered.
        let mixed = (0..<63).map { $0 % 3 == 0 ? ("[", "]") : ("{\"b\":", "}") }
        let text =
            "{\"instruction\":\"x\",\"a\":" + mixed.map(\.0).joined() + "1" + mixed.reversed().map(\.1).joined() + "}"
        #expect(verdict(text) == "instruction")
        #expect(verdict(text.replacing("1", with: "1]")).hasPrefix("malformed"))
    }

    @Test func `every prefix of an instruction is malformed, and none reads beyond its end`() {
        let text = Array(#"{"instruction":"a\u00e9\ud834\udd1e","parameters":[1.5e3,{"b":null}],"id":true}"#.utf8)
        for count in 1..<text.count {
            // A copy of exactly this size, so that a sanitizer would see a read behind it.
            let prefix = Array(text[..<count])
            guard case .malformed = prefix.withUnsafeBytes({ Envelope.parse($0) }) else {
                Issue.record("\(count) bytes are taken")
                return
            }
        }
    }

    @Test func `a quote, backslash or control is found at every place of a word`() {
        for length in 0..<40 {
            let filler = String(repeating: "é", count: length / 2) + String(repeating: "a", count: length)
            #expect(found("{\"instruction\":\"\(filler)\",\"id\":1}")?.instruction == filler)
            #expect(found("{\"instruction\":\"\(filler)\\n!\",\"id\":1}")?.instruction == filler + "\n!")
            #expect(verdict("{\"instruction\":\"\(filler)\u{1}\",\"id\":1}").hasSuffix("a bare control character"))
        }
    }

    @Test func `seeded noise in a good message never traps`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("envelopes: seed \(seed)")
        var random = SplitMix64(seed: seed)
        let good = Array(
            #"{"instruction":"a\u00e9\ud834\udd1e","parameters":[1.5e3,{"b":null}],"id":true,"credential":"x\\"}"#.utf8)
        let alphabet = Array(#"{}[]",:\u0d8e+-.truefalsn "#.utf8)
        var kinds: Set<String> = []
        for _ in 0..<20_000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = alphabet.randomElement(using: &random)!
            }
            bytes.withUnsafeBytes { bytes in
                switch Envelope.parse(bytes) {
                case .instruction(let envelope):
                    kinds.insert("instruction")
                    #expect(
                        envelope.instruction.decoded(in: bytes).count <= envelope.instruction.range.count,
                        "seed \(seed)")
                    if let credential = envelope.credential { _ = credential.decoded(in: bytes) }
                case .notInstruction: kinds.insert("not")
                case .malformed: kinds.insert("malformed")
                }
            }
        }
        #expect(kinds.count == 3, "seed \(seed)")
    }
}

@Suite struct `JSON strings` {
    private func written(_ text: String) -> String {
        var bytes: [UInt8] = []
        JSONString.write(text, into: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test func `only what must be escaped is escaped`() {
        #expect(written("") == "\"\"")
        #expect(written("a/é€𝄞") == "\"a/é€𝄞\"")
        #expect(written("\"\\\n\r\t\u{8}\u{C}\0\u{1B}\u{7F}x") == #""\"\\\n\r\t\b\f\u0000\u001b\u007fx""#)
    }

    @Test func `what is written is read again`() {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("JSON strings: seed \(seed)")
        var random = SplitMix64(seed: seed)
        for _ in 0..<2000 {
            var scalars = String.UnicodeScalarView()
            for _ in 0..<Int.random(in: 0...30, using: &random) {
                let limit: UInt32 = [0x80, 0x800, 0xD800, 0x11_0000].randomElement(using: &random)!
                if let scalar = Unicode.Scalar(UInt32.random(in: 0..<limit, using: &random)) { scalars.append(scalar) }
            }
            let text = String(scalars)
            let bytes = Array("{\"instruction\":\(written(text))}".utf8)
            bytes.withUnsafeBytes { bytes in
                guard case .instruction(let envelope) = Envelope.parse(bytes) else {
                    Issue.record("refused; seed \(seed)")
                    return
                }
                #expect(envelope.instruction.decoded(in: bytes) == Array(text.utf8), "seed \(seed)")
            }
        }
    }
}
