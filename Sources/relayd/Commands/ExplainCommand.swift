import ArgumentParser
import Relay
import RelayClient

struct ExplainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Explain an error code, a close code or a limit.",
        discussion: "As in `relayd explain budget_exceeded`, `relayd explain 4003`, `relayd explain messageBytes`. "
            + "Without a code, all of them are listed.")

    @Argument(help: ArgumentHelp("The code, or a limit's name.", valueName: "code")) var code: String?

    func run() throws {
        guard let code else { return writeLine(Self.overview()) }
        guard let text = Self.explanation(of: code) else {
            throw ClientFailure.refused(
                "There is no error code, close code or limit \"\(printable(code))\"; `relayd explain` lists them all.")
        }
        writeLine(text)
    }

    static func explanation(of code: String) -> String? {
        if let error = ErrorCode(rawValue: code) { return "\(code): error code\n\(error.explanation)" }
        if let number = UInt16(code), (1000...4999).contains(number) {
            let close = CloseCode(number)
            let advice = close.shouldReconnect ? "A client should connect again." : "A client should not connect again."
            return "\(number): close code, \(close.name)\n\(close.explanation)\n\(advice)"
        }
        guard let limit = Limits.descriptor(named: code.hasPrefix("limits.") ? String(code.dropFirst(7)) : code)
        else { return nil }
        let when = limit.changesLive ? "changes live" : "changes at a restart"
        return """
            \(limit.name): limit, \(limit.unit.name), \(limit.rangeText), default \(limit.text(in: Limits())), \(when)
            \(limit.explanation)
            Set it with --limit \(limit.name)=VALUE, \(limit.environmentName), or under limits: in the file.
            """
    }

    static func overview() -> String {
        let errors = ErrorCode.allCases.map { [$0.rawValue, firstSentence($0.explanation)] }
        let closes = CloseCode.all.map { ["\($0.rawValue)", $0.name, $0.shouldReconnect ? "yes" : "no"] }
        let limits = Limits.descriptors.map { [$0.name, $0.text(in: Limits()), $0.rangeText] }
        return [
            table(["ERROR CODE", "MEANING"], errors), table(["CLOSE CODE", "NAME", "RECONNECT"], closes),
            table(["LIMIT", "DEFAULT", "RANGE"], limits),
        ].joined(separator: "\n\n")
    }

    private static func firstSentence(_ text: String) -> String {
        guard let end = text.firstRange(of: ". ") else { return text }
        return String(text[..<end.lowerBound]) + "."
    }
}
