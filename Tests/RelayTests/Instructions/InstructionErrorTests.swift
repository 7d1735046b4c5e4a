import Testing

@testable import Relay

@Suite struct InstructionErrorTests {
    private func json(_ error: InstructionError) -> String {
        var bytes = Array(#"{"id":1,"error":"#.utf8)
        let start = bytes.count
        error.append(to: &bytes)
        return String(decoding: bytes[start...], as: UTF8.self)
    }

    @Test(arguments: ErrorCode.allCases)
    func `an error is its code and one sentence`(code: ErrorCode) {
        #expect(
            json(InstructionError(code, "It did not work."))
                == #"{"code":"\#(code.rawValue)","message":"It did not work."}"#)
    }

    @Test func `a script's failure says where`() {
        let failure = ScriptFailure(
            code: .scriptError, message: "a.lua:3: boom", instruction: "greet", file: "a.lua", line: 3, generation: 7,
            traceback: "stack traceback:\n\t[C]: in function 'error'")
        #expect(
            json(InstructionError(failure))
                == #"{"code":"script_error","message":"a.lua:3: boom","data":{"instruction":"greet","file":"a.lua","#
                + #""line":3,"generation":7,"traceback":"stack traceback:\n\t[C]: in function 'error'"}}"#)
    }

    @Test func `what a failure does not know is left out`() {
        #expect(
            json(InstructionError(ScriptFailure(code: .memoryExceeded, message: "No memory.")))
                == #"{"code":"memory_exceeded","message":"No memory."}"#)
        #expect(
            json(InstructionError(ScriptFailure(code: .compileError, message: "m", line: 1)))
                == #"{"code":"compile_error","message":"m","data":{"line":1}}"#)
        #expect(
            json(InstructionError(ScriptFailure(code: .timeout, message: "m", file: "f", traceback: "t")))
                == #"{"code":"timeout","message":"m","data":{"file":"f","traceback":"t"}}"#)
    }

    /// Names and messages come from scripts, and may hold anything.
    @Test(arguments: ["\"", "\\", "\u{0}\u{1F}\u{7F}", "\n\r\t\u{8}\u{C}", "é😀\u{2028}", "\"},\"id\":2,{\"", ""])
    func `no text breaks out of its string`(text: String) throws {
        let failure = ScriptFailure(
            code: .scriptError, message: text, instruction: text, file: text, traceback: text)
        // A whole message with the error as its only parameter is valid only if the error is one JSON value.
        let message = Array((#"{"instruction":"x","parameters":["# + json(InstructionError(failure)) + "]}").utf8)
        try message.withUnsafeBytes { bytes in
            guard case .instruction(let envelope) = Envelope.parse(bytes) else {
                Issue.record("\(text.debugDescription) makes the reply no JSON")
                return
            }
            let parameters = try #require(envelope.parameters)
            #expect(parameters.upperBound == bytes.count - 1)
        }
    }

    @Test(arguments: ErrorCode.allCases)
    func `every code has a name for the wire and an explanation that says what to do`(code: ErrorCode) {
        #expect(code.rawValue.allSatisfy { $0 == "_" || ("a"..."z").contains($0) })
        #expect(code.explanation.hasSuffix("."))
        #expect(code.explanation.contains(" "))
    }

    @Test func `the codes are those of the contract`() {
        #expect(
            ErrorCode.allCases.map(\.rawValue) == [
                "malformed", "unauthorized", "forbidden", "unknown_instruction", "bad_parameters", "compile_error",
                "script_error", "budget_exceeded", "memory_exceeded", "output_exceeded", "not_found", "conflict",
                "limit", "unavailable", "timeout", "internal",
            ])
    }
}
