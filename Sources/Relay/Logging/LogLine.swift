import Logging

/// Turns one entry into one line, whatever a peer put into it: no control character, line separator or change of
/// writing direction gets through, so a path or a close reason can neither start a line nor drive a terminal.
///
///     2026-11-21T01:22:03.123Z info  listening address=ws://127.0.0.1:8087 livecode=true
///     {"time":"2026-11-21T01:22:03.123Z","level":"info","message":"listening","address":"ws://127.0.0.1:8087"}
enum LogLine {
    /// An entry's text is cut here: a message of a mebibyte must not push a thousand others out of the queue.
    static let longestText = 8 << 10

    static func make(
        _ format: Configuration.LogFormat, time: CivilTime, level: Logger.Level, message: String,
        metadata: Logger.Metadata
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(64 + message.utf8.count + metadata.count * 32)
        switch format {
        case .text: appendText(time, level, message, metadata, to: &bytes)
        case .json: appendJSON(time, level, message, metadata, to: &bytes)
        }
        bytes.append(UInt8(ascii: "\n"))
        return bytes
    }

    // MARK: Text

    private static func appendText(
        _ time: CivilTime, _ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata,
        to bytes: inout [UInt8]
    ) {
        time.append(to: &bytes)
        bytes.append(UInt8(ascii: " "))
        bytes.append(contentsOf: level.rawValue.utf8)
        for _ in 0..<max(0, 5 - level.rawValue.utf8.count) { bytes.append(UInt8(ascii: " ")) }
        bytes.append(UInt8(ascii: " "))
        appendEscaped(message, escapingQuotes: false, to: &bytes)
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) {
            bytes.append(UInt8(ascii: " "))
            appendKey(key, to: &bytes)
            bytes.append(UInt8(ascii: "="))
            let text = value.description
            let quotes = needsQuotes(text)
            if quotes { bytes.append(UInt8(ascii: "\"")) }
            appendEscaped(text, escapingQuotes: true, to: &bytes)
            if quotes { bytes.append(UInt8(ascii: "\"")) }
        }
    }

    private static func appendKey(_ key: String, to bytes: inout [UInt8]) {
        for byte in key.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "."), UInt8(ascii: "-"):
                bytes.append(byte)
            default: bytes.append(UInt8(ascii: "_"))
            }
        }
    }

    private static func needsQuotes(_ text: String) -> Bool {
        text.isEmpty
            || text.unicodeScalars.contains { $0 == " " || $0 == "\"" || $0 == "=" || $0 == "\\" || mustEscape($0) }
    }

    private static func appendEscaped(_ text: String, escapingQuotes: Bool, to bytes: inout [UInt8]) {
        var length = 0
        for scalar in text.unicodeScalars {
            guard length < longestText else {
                bytes.append(contentsOf: "… (\(text.utf8.count) bytes)".utf8)
                return
            }
            length += UTF8.width(scalar)
            switch scalar {
            case "\\": bytes.append(contentsOf: "\\\\".utf8)
            case "\"" where escapingQuotes: bytes.append(contentsOf: "\\\"".utf8)
            case "\n": bytes.append(contentsOf: "\\n".utf8)
            case "\r": bytes.append(contentsOf: "\\r".utf8)
            case "\t": bytes.append(contentsOf: "\\t".utf8)
            case _ where mustEscape(scalar):
                bytes.append(contentsOf: "\\u{\(String(scalar.value, radix: 16))}".utf8)
            default: bytes.append(contentsOf: scalar.utf8)
            }
        }
    }

    /// Control characters (C0, DEL, C1), line and paragraph separators, and what turns the direction of writing.
    static func mustEscape(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x00...0x1f, 0x7f...0x9f, 0x061c, 0x200e, 0x200f, 0x2028...0x202e, 0x2066...0x2069, 0xfeff: true
        default: false
        }
    }

    // MARK: JSON

    private static func appendJSON(
        _ time: CivilTime, _ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata,
        to bytes: inout [UInt8]
    ) {
        bytes.append(contentsOf: "{\"time\":\"".utf8)
        time.append(to: &bytes)
        bytes.append(contentsOf: "\",\"level\":\"\(level.rawValue)\",\"message\":".utf8)
        appendJSONString(message, to: &bytes)
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }) {
            bytes.append(UInt8(ascii: ","))
            // A reader must find each name once.
            let isTaken = key == "time" || key == "level" || key == "message"
            appendJSONString(isTaken ? key + "_" : key, to: &bytes)
            bytes.append(UInt8(ascii: ":"))
            appendJSONValue(value, to: &bytes)
        }
        bytes.append(UInt8(ascii: "}"))
    }

    private static func appendJSONValue(_ value: Logger.MetadataValue, to bytes: inout [UInt8]) {
        switch value {
        case .string(let text): appendJSONString(text, to: &bytes)
        case .stringConvertible(let convertible): appendJSONString(convertible.description, to: &bytes)
        case .array(let values):
            bytes.append(UInt8(ascii: "["))
            for (index, value) in values.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                appendJSONValue(value, to: &bytes)
            }
            bytes.append(UInt8(ascii: "]"))
        case .dictionary(let values):
            bytes.append(UInt8(ascii: "{"))
            for (index, (key, value)) in values.sorted(by: { $0.key < $1.key }).enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                appendJSONString(key, to: &bytes)
                bytes.append(UInt8(ascii: ":"))
                appendJSONValue(value, to: &bytes)
            }
            bytes.append(UInt8(ascii: "}"))
        }
    }

    private static func appendJSONString(_ text: String, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        var length = 0
        for scalar in text.unicodeScalars {
            guard length < longestText else {
                bytes.append(contentsOf: "… (\(text.utf8.count) bytes)".utf8)
                break
            }
            length += UTF8.width(scalar)
            switch scalar {
            case "\\": bytes.append(contentsOf: "\\\\".utf8)
            case "\"": bytes.append(contentsOf: "\\\"".utf8)
            case _ where mustEscape(scalar):
                // All of these are in the basic plane: one \uXXXX each (RFC 8259 §7).
                let digits = String(scalar.value, radix: 16)
                bytes.append(contentsOf: "\\u\(String(repeating: "0", count: 4 - digits.utf8.count))\(digits)".utf8)
            default: bytes.append(contentsOf: scalar.utf8)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }
}
