/// An instruction message (DESIGN §6): `{"instruction": NAME, "parameters": …, "credential": SECRET, "id": ANY}`.
///
/// One pass over the bytes checks all of the text and remembers where the four members lie; nothing is built or copied.
/// Other members are ignored. Where a member comes twice, the last one counts, as in JavaScript and Lua.
struct Envelope: Sendable {
    let instruction: JSONStringSlice
    /// JSON text of what should be an array or an object; nil where there is none, or null.
    let parameters: Range<Int>?
    /// Nil where there is none, or null.
    let credential: JSONStringSlice?
    /// JSON text of any value; nil where there is none, or null: then no reply is wanted.
    let id: Range<Int>?

    /// What a text message is.
    enum Classification: Sendable {
        case instruction(Envelope)
        /// Plain text, or JSON without an `instruction` member: for whoever listens to other messages.
        case notInstruction
        /// It begins as a JSON object but is broken, or has a member of the wrong type.
        case malformed(Malformed)
    }

    /// Why a message is no valid instruction.
    struct Malformed: Sendable, CustomStringConvertible {
        /// A sentence without its full stop.
        let reason: StaticString
        let detail: StaticString?
        /// JSON text of the request's id, where the text as a whole is valid and has one.
        let id: Range<Int>?

        var description: String { detail.map { "\(reason): \($0)" } ?? "\(reason)" }
    }

    /// Classifies a whole text message. `bytes` are valid UTF-8; the ranges that come out index them.
    static func parse(_ bytes: UnsafeRawBufferPointer) -> Classification {
        var scanner = JSONScanner(bytes)
        scanner.skipWhitespace()
        guard scanner.next == UInt8(ascii: "{") else { return .notInstruction }
        var members = Members()
        do {
            try members.read(&scanner, bytes)
        } catch {
            return .malformed(Malformed(reason: "The message is no valid JSON", detail: error.reason, id: nil))
        }
        return members.classify()
    }
}

/// The members of an envelope, of whatever type they are.
private struct Members {
    /// A value and its kind. `text` is good where it is a string.
    struct Value {
        var kind: JSONScanner.Kind
        var range: Range<Int>
        var text: JSONStringSlice
    }

    var instruction: Value?
    var parameters: Value?
    var credential: Value?
    var id: Value?

    /// Reads the whole object that begins here, behind which nothing may follow.
    @inline(__always)
    mutating func read(_ scanner: inout JSONScanner, _ bytes: UnsafeRawBufferPointer) throws(JSONScanner.Problem) {
        try scanner.expect(UInt8(ascii: "{"))
        scanner.skipWhitespace()
        if !scanner.skip(UInt8(ascii: "}")) {
            while true {
                try readMember(&scanner, bytes)
                scanner.skipWhitespace()
                guard scanner.skip(UInt8(ascii: ",")) else { break }
                scanner.skipWhitespace()
            }
            try scanner.expect(UInt8(ascii: "}"))
        }
        scanner.skipWhitespace()
        guard scanner.next == nil else { throw .unexpectedByte }
    }

    @inline(__always)
    private mutating func readMember(
        _ scanner: inout JSONScanner, _ bytes: UnsafeRawBufferPointer
    ) throws(JSONScanner.Problem) {
        let key = try scanner.string()
        try scanner.skipColon()
        let start = scanner.position
        let kind = try scanner.kind()
        var text = key
        if kind == .string { text = try scanner.string() } else { try scanner.skipValue(depth: 1) }
        let value = Value(kind: kind, range: start..<scanner.position, text: text)
        if key.equals("instruction", in: bytes) {
            instruction = value
        } else if key.equals("parameters", in: bytes) {
            parameters = value
        } else if key.equals("id", in: bytes) {
            id = value
        } else if key.equals("credential", in: bytes) {
            credential = value
        }
    }

    func classify() -> Envelope.Classification {
        guard let instruction else { return .notInstruction }
        let id = self.id.flatMap { $0.kind == .null ? nil : $0.range }
        func malformed(_ reason: StaticString) -> Envelope.Classification {
            .malformed(Envelope.Malformed(reason: reason, detail: nil, id: id))
        }
        guard instruction.kind == .string else { return malformed("\"instruction\" is not a string") }
        let arguments = parameters.flatMap { $0.kind == .null ? nil : $0.range }
        var secret: JSONStringSlice?
        switch credential?.kind {
        case nil, .null: break
        case .string: secret = credential?.text
        case .array, .object, .number, .boolean: return malformed("\"credential\" is not a string")
        }
        return .instruction(
            Envelope(instruction: instruction.text, parameters: arguments, credential: secret, id: id))
    }
}
