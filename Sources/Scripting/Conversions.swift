import CLuaShims
import Relay

// Between Relay's values and those of `CLuaShims.h`.

extension rl_bytes {
    /// Lends a buffer; an empty one keeps a start, since C takes NULL for "none".
    init(_ buffer: UnsafeRawBufferPointer) {
        self.init(
            start: buffer.baseAddress?.assumingMemoryBound(to: CChar.self) ?? emptyBytes, count: buffer.count)
    }

    var raw: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: start, count: count) }

    /// Nil where C has said that there is none.
    var buffer: UnsafeRawBufferPointer? { start == nil ? nil : raw }

    /// A copy; bytes that are no UTF-8 are replaced.
    var string: String { String(decoding: raw, as: UTF8.self) }
}

/// One byte that lives for ever: where empty buffers start.
nonisolated(unsafe) private let emptyBytes = UnsafePointer(UnsafeMutablePointer<CChar>.allocate(capacity: 1))

/// Lends a string's UTF-8 to `body`.
func withBytes<Result, Failure: Error>(
    of text: String, _ body: (rl_bytes) throws(Failure) -> Result
) throws(Failure) -> Result {
    var text = text
    let result: Swift.Result<Result, Failure> = text.withUTF8 { bytes in
        do throws(Failure) {
            return .success(try body(rl_bytes(UnsafeRawBufferPointer(bytes))))
        } catch {
            return .failure(error)
        }
    }
    return try result.get()
}

extension ServerID {
    init(_ server: rl_server) {
        self = server.name.start == nil ? .number(server.number) : .name(server.name.string)
    }
}

extension rl_server {
    /// Lends the id to `body`.
    static func with<Result>(_ server: ServerID, _ body: (rl_server) -> Result) -> Result {
        switch server {
        case .name(let name): withBytes(of: name) { body(rl_server(name: $0, number: 0)) }
        case .number(let number): body(rl_server(name: rl_bytes(), number: number))
        }
    }
}

extension ErrorCode {
    init(_ code: rl_code) {
        self =
            switch code {
            case .compile: .compileError
            case .script: .scriptError
            case .budget: .budgetExceeded
            case .memory: .memoryExceeded
            case .output: .outputExceeded
            case .parameters: .badParameters
            case .internal, .none: .internal
            }
    }
}

extension HookPoint {
    /// The name that relay.on takes, which C has checked.
    init(name: String) {
        self =
            switch name {
            case "handshake": .handshake
            case "open": .open
            case "message": .message
            case "connect": .connect
            case "request": .request
            case "close": .close
            case "reload": .reload
            default: .event(VerbatimText(String(name.dropFirst("event:".count))))
            }
    }

    var name: String {
        switch self {
        case .handshake: "handshake"
        case .open: "open"
        case .message: "message"
        case .connect: "connect"
        case .request: "request"
        case .close: "close"
        case .reload: "reload"
        case .event(let name): "event:\(name)"
        }
    }

    var kind: rl_call_kind {
        switch self {
        case .handshake: .handshake
        case .open: .open
        case .message: .message
        case .connect: .connect
        case .request: .request
        case .close: .close
        case .reload: .reload
        case .event: .event
        }
    }
}

extension ScriptBudgets {
    /// As C takes them. Nanoseconds beyond 292 years are as many as fit.
    var lowered: rl_budgets {
        rl_budgets(
            burst_nanoseconds: burst.nanoseconds, call_nanoseconds: callTime.nanoseconds,
            load_nanoseconds: loadTime.nanoseconds, memory_bytes: max(0, memoryBytes),
            output_bytes: max(0, outputBytesPerCall))
    }
}

extension Duration {
    fileprivate var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overflowAgain) = product.addingReportingOverflow(attoseconds / 1_000_000_000)
        return overflow || overflowAgain ? .max : max(0, sum)
    }
}
