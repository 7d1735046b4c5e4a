import FoundationEssentials
import Glibc
import RelayClient

/// Opens /dev/null for each of the three standard descriptors that is closed: a socket that took the number 2 would be
/// sent the log.
func openStandardDescriptors() {
    for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) == -1 {
        // open(2) takes the lowest free number, which is this one.
        _ = open("/dev/null", O_RDWR)
    }
}

/// Writes text and a line feed to standard output, whole, whatever stdio would buffer. A reader that is gone (`| head`)
/// ends the program quietly, as it does others.
func writeLine(_ text: String) { writeText(text + "\n") }

/// Writes text to standard output as it is.
func writeText(_ text: String) { writeAll(text, to: STDOUT_FILENO) }

/// Writes one sentence to standard error.
func writeError(_ sentence: String, prefix: String = "relayd: ") {
    writeAll(prefix + sentence + "\n", to: STDERR_FILENO)
}

private func writeAll(_ text: String, to descriptor: Int32) {
    var text = text
    text.withUTF8 { buffer in
        var rest = buffer[...]
        while !rest.isEmpty {
            let count = write(descriptor, UnsafeBufferPointer(rebasing: rest).baseAddress, rest.count)
            if count > 0 {
                rest = rest.dropFirst(count)
            } else if count < 0, errno == EAGAIN {
                var ready = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = poll(&ready, 1, 1000)
            } else if count == 0 || errno != EINTR {
                return
            }
        }
    }
}

/// The library's words for a usage error as one sentence: a list of choices goes into the line, and a full stop behind.
func usageSentence(_ message: String) -> String {
    let lines = message.split(separator: "\n").map { $0.drop { $0 == " " } }
    var sentence = ""
    var isAfterChoice = false
    for line in lines {
        let isChoice = line.hasPrefix("- ")
        if !sentence.isEmpty { sentence += isChoice && isAfterChoice ? ", " : " " }
        sentence += isChoice ? line.dropFirst(2) : line
        isAfterChoice = isChoice
    }
    return sentence.hasSuffix(".") ? sentence : sentence + "."
}

/// The value of an environment variable; nil where it is missing or empty.
func environmentVariable(_ name: String) -> String? {
    guard let value = getenv(name) else { return nil }
    let text = String(cString: value)
    return text.isEmpty ? nil : text
}

/// Rows of texts under headings, columns aligned, two blanks apart, no blanks at the end of a line.
func table(_ headings: [String], _ rows: [[String]]) -> String {
    let all = [headings] + rows.map { $0.map(printable) }
    let widths = headings.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
    return all.map { row in
        var line = ""
        for (column, cell) in row.enumerated() {
            line += cell
            guard row[(column + 1)...].contains(where: { !$0.isEmpty }) else { break }
            line += String(repeating: " ", count: widths[column] - cell.count + 2)
        }
        return line
    }.joined(separator: "\n")
}

/// The environment as `NAME=VALUE` texts.
func currentEnvironment() -> [String] {
    ProcessInfo.processInfo.environment.map { "\($0)=\($1)" }
}
