/// A relay without sockets that counts what scripts send, and is asked for nothing else.
final class SilentHost: EngineHost {
    private(set) var sentMessages = 0
    let configJSON = "{}"

    func send(_ bytes: UnsafeRawBufferPointer, isText: Bool, to connection: ConnectionID) -> ScriptSendResult {
        sentMessages += 1
        return .queued
    }
    func close(_ connection: ConnectionID, code: UInt16, reason: String) -> Bool { false }
    func isOpen(_ connection: ConnectionID) -> Bool { true }
    func facts(of connection: ConnectionID) -> ConnectionFacts? { nil }
    func may(_ connection: ConnectionID, _ serial: CallID, _ right: String) -> Bool? { false }
    func install(server: ServerID, connection: ConnectionID, options: ServerOptions) -> ErrorCode? { .notFound }
    func uninstall(server: ServerID) -> Bool { false }
    func server(_ server: ServerID) -> ConnectionID? { nil }
    func pipe(_ one: ConnectionID, _ other: ConnectionID) -> ErrorCode? { .notFound }
    func connect(_ connection: ConnectionID, server: ServerID, port: UInt16, metadata: String?) -> ConnectResult {
        .refused(.notFound)
    }
    func hold(_ connection: ConnectionID, _ isHeld: Bool) -> Bool { false }
    func takeMessages(of connection: ConnectionID) -> Bool { false }
    func request(_ request: OutboundRequest) -> Result<ScriptRequestID, OutboundFailure> {
        .failure(OutboundFailure(.unavailable, "there is no network"))
    }
    func dial(server: ServerID, port: UInt16, callbacks: DialCallbacks, metadata: String?) -> DialResult {
        .refused(.notFound)
    }
    func schedule(after delay: Duration, repeats: Bool) -> ScriptTimerID? { nil }
    func cancel(_ timer: ScriptTimerID) {}
    func callFinished(_ id: CallID, _ outcome: CallOutcome) {}
    func unattendedFailure(_ failure: ScriptFailure) {}
    func log(level: ScriptLogLevel, message: String, fields: [(name: String, value: String)]) {}
    func wallClockSeconds() -> Double { 0 }
    func monotonicSeconds() -> Double { 0 }
    func randomBytes(_ count: Int) -> [UInt8] { Array(repeating: 0, count: count) }
    func sha256(_ bytes: UnsafeRawBufferPointer) -> [UInt8] { [] }
    func hmacSHA256(key: UnsafeRawBufferPointer, _ bytes: UnsafeRawBufferPointer) -> [UInt8] { [] }
    func constantTimeEqual(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool { false }
}
