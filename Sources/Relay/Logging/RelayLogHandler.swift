package import Logging

/// swift-log's face of a `LogWriter`. Its level is the writer's, which an operator can change while the relay runs,
/// unless the code that holds the logger has set one of its own.
package struct RelayLogHandler: LogHandler {
    package var metadata: Logger.Metadata = [:]
    package var metadataProvider: Logger.MetadataProvider?
    private let writer: LogWriter
    private var ownLevel: Logger.Level?

    package init(writer: LogWriter) { self.writer = writer }

    package var logLevel: Logger.Level {
        get { ownLevel ?? writer.level }
        set { ownLevel = newValue }
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var all = metadata
        if let provided = metadataProvider?.get() { all.merge(provided) { $1 } }
        if let own = event.metadata { all.merge(own) { $1 } }
        if let error = event.error { all["error"] = "\(error)" }
        writer.write(level: event.level, message: event.message.description, metadata: all)
    }
}

extension LogWriter {
    /// A logger that writes here.
    package func makeLogger(label: String = "relayd") -> Logger {
        Logger(label: label) { _ in RelayLogHandler(writer: self) }
    }
}
