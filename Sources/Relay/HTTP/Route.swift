/// What a request is for, by its path (DESIGN §5):
///
///     /                    /app/NAME                    instruction connection
///     /c/SERVER/PORT       /app/NAME/c/SERVER/PORT      clean client
///     /s/SERVER            /app/NAME/s/SERVER           server registration
///     /a/TICKET            /app/NAME/a/TICKET           a server's dedicated connection
///     /healthz  /readyz  /metrics                       plain HTTP
///     /relay.js  /examples/…                            plain HTTP, files
///     anything else, /app/NAME/…                        plain HTTP, which an app's scripts may answer
enum Route: Hashable, Sendable {
    case instruction(app: String)
    case cleanClient(app: String, server: ServerID, port: UInt16)
    case serverRegistration(app: String, server: ServerID)
    case dedicated(app: String, ticket: String)
    case health
    case ready
    case metrics
    /// A place for files, whether there is one or not.
    case file(path: String)
    /// A path of an app that means nothing to the relay itself.
    case other(app: String)
    /// A well-formed path that leads nowhere.
    case notFound
    /// A path that cannot be decoded to names, or that tries to climb: answer 400.
    case badRequest

    static let defaultApp = "default"

    /// The route of a path as it came in the request target, percent-encoded. With a base path (`/relay`) everything
    /// lies below that.
    static func parse(_ whole: String, below base: String = "") -> Route {
        guard whole.utf8.first == UInt8(ascii: "/") else { return .badRequest }
        guard let path = path(whole, below: base) else { return .notFound }
        return parse(path: path)
    }

    /// The rest of a path behind a base; nil where it does not lie below that.
    private static func path(_ whole: String, below base: String) -> String? {
        guard whole.utf8.starts(with: base.utf8) else { return nil }
        let rest = whole.utf8.dropFirst(base.utf8.count)
        guard rest.isEmpty || rest.first == UInt8(ascii: "/") else { return nil }
        return rest.isEmpty ? "/" : String(decoding: rest, as: UTF8.self)
    }

    private static func parse(path: String) -> Route {
        guard let segments = segments(of: path) else { return .badRequest }
        var rest = segments[...]
        var app = defaultApp
        if rest.first == "app" {
            guard rest.count >= 2, isAppName(rest[1]) else { return .notFound }
            app = rest[1]
            rest = rest.dropFirst(2)
        } else if rest.first == "examples" {
            return .file(path: "/" + rest.joined(separator: "/"))
        } else if rest.count == 1 {
            switch rest[0] {
            case "healthz": return .health
            case "readyz": return .ready
            case "metrics": return .metrics
            case "relay.js": return .file(path: "/relay.js")
            default: break
            }
        }
        return route(Array(rest), app: app)
    }

    /// The app that a path belongs to; nil where it is the relay's own, or leads nowhere.
    var app: String? {
        switch self {
        case .instruction(let app), .cleanClient(let app, _, _), .serverRegistration(let app, _),
            .dedicated(let app, _), .other(let app):
            app
        case .health, .ready, .metrics, .file, .notFound, .badRequest: nil
        }
    }

    /// A path that belongs to an app, decoded, without what names the app; begins with `/`.
    static func pathInApp(_ whole: String, below base: String = "") -> String {
        guard let path = path(whole, below: base), let segments = segments(of: path) else {
            preconditionFailure("the path has no app")
        }
        return "/" + (segments.first == "app" ? segments.dropFirst(2) : segments[...]).joined(separator: "/")
    }

    /// What stands between the slashes, decoded; nil where something cannot be. `/` has none.
    private static func segments(of path: String) -> [String]? {
        guard path.utf8.first == UInt8(ascii: "/") else { return nil }
        var segments: [String] = []
        guard path != "/" else { return segments }
        for encoded in path.utf8.dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false) {
            guard let segment = decode(encoded) else { return nil }
            segments.append(segment)
        }
        return segments
    }

    private static func route(_ segments: [String], app: String) -> Route {
        guard !segments.contains("") else { return .other(app: app) }
        switch (segments.first, segments.count) {
        case (nil, _): return .instruction(app: app)
        case ("c", 3):
            guard let port = portNumber(segments[2]) else { return .other(app: app) }
            return .cleanClient(app: app, server: serverID(segments[1]), port: port)
        case ("s", 2): return .serverRegistration(app: app, server: serverID(segments[1]))
        case ("a", 2): return .dedicated(app: app, ticket: segments[1])
        default: return .other(app: app)
        }
    }

    /// Whether an app may be called this: 1 to 64 of `A-Z a-z 0-9 _ -`.
    static func isAppName(_ name: String) -> Bool {
        (1...64).contains(name.utf8.count)
            && name.utf8.allSatisfy {
                switch $0 {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }

    /// One segment as text; nil for escapes that are broken or stand for a slash, control characters, `.` and `..`, and
    /// what is not UTF-8 (overlong forms among it).
    private static func decode(_ encoded: Substring.UTF8View.SubSequence) -> String? {
        guard let bytes = PercentEncoding.decode(encoded),
            bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "/") }),
            let segment = String(validating: bytes, as: UTF8.self), segment != ".", segment != ".."
        else { return nil }
        return segment
    }

    /// Digits as a number is written (no leading zeros) are a number, everything else is a name.
    static func serverID(_ segment: String) -> ServerID {
        if segment.utf8.allSatisfy(HTTPCharacter.isDigit), let number = Int64(segment), String(number) == segment {
            return .number(number)
        }
        return .name(segment)
    }

    private static func portNumber(_ segment: String) -> UInt16? {
        guard segment.utf8.allSatisfy(HTTPCharacter.isDigit), segment == "0" || segment.utf8.first != UInt8(ascii: "0")
        else { return nil }
        return UInt16(segment)
    }
}
