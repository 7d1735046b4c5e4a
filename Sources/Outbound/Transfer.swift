internal import CCurl
internal import Glibc
internal import Relay

/// One request under way: what libcurl's callbacks fill, and what they refuse.
///
/// It belongs to the client's thread, where all of libcurl's callbacks come.
final class Transfer {
    let app: UInt64
    let answer: @Sendable (OutboundResult) -> Void
    /// On the monotonic clock, in milliseconds.
    let deadline: UInt64
    private let allowed: HTTPAllowList
    private let sockets: KeptSockets
    /// The connection that was kept for it cannot be used.
    private(set) var mustBeFresh = false
    /// The present hop's.
    var request: OutboundRequest
    private(set) var target: Target
    /// What `curl_easy_setopt` only borrows.
    var headerList: UnsafeMutablePointer<curl_slist>?

    private(set) var headers: [(name: String, value: String)] = []
    private(set) var body: [UInt8] = []
    /// Why a callback has stopped the transfer.
    private(set) var failure: OutboundFailure?
    private var headerBytes = 0
    private var headersAreComplete = false

    /// What the headers of one response may have together, and how many there may be. An app's own headers are rarely
    /// beyond a kibibyte; RFC 6585's 431 is the custom of servers at 8 to 64 KiB.
    private static let maximumHeaderBytes = 64 << 10
    private static let maximumHeaders = 256

    init(
        _ request: OutboundRequest, _ target: Target, app: UInt64, deadline: UInt64, allowed: HTTPAllowList,
        sockets: KeptSockets, answer: @escaping @Sendable (OutboundResult) -> Void
    ) {
        self.request = request
        self.target = target
        self.app = app
        self.deadline = deadline
        self.allowed = allowed
        self.sockets = sockets
        self.answer = answer
    }

    /// Goes on to another URL, where nothing of the last response counts any more.
    func follow(_ url: String, _ target: Target) {
        request.url = url
        self.target = target
        headers = []
        body = []
        failure = nil
        mustBeFresh = false
        headerBytes = 0
        headersAreComplete = false
    }

    // MARK: What libcurl brings

    /// A connection is there, and the request is about to be sent. Answers whether on this one.
    func mayUse(localPort: Int) -> Bool {
        guard sockets.hasInput(localPort: localPort), !mustBeFresh else { return true }
        mustBeFresh = true
        return false
    }

    /// One line of the head, as it came, or of the trailer. Answers whether to go on.
    func headerLine(_ line: UnsafeRawBufferPointer) -> Bool {
        headerBytes += line.count
        guard headerBytes <= Self.maximumHeaderBytes, headers.count < Self.maximumHeaders else {
            failure = OutboundFailure(
                .limit, "The answer's headers are more than \(Self.maximumHeaders) or \(Self.maximumHeaderBytes) bytes."
            )
            return false
        }
        let text = String(decoding: line, as: UTF8.self)
        if text.hasPrefix("HTTP/") {
            // A head begins: the first one, or the one behind an interim response (RFC 9110 §15.2).
            headers = []
            headersAreComplete = false
        } else if line.count <= 2 {
            headersAreComplete = true
        } else if !headersAreComplete, !line.contains(0), let colon = text.firstIndex(of: ":") {
            add(text[..<colon].lowercased(), Self.trimmed(text[text.index(after: colon)...]))
        }
        return true
    }

    private func add(_ name: String, _ value: String) {
        if let position = headers.firstIndex(where: { $0.name == name }) {
            headers[position].value += ", " + value
        } else {
            headers.append((name, value))
        }
    }

    private static func trimmed(_ text: Substring) -> String {
        let scalars = text.unicodeScalars
        guard let first = scalars.firstIndex(where: { !$0.properties.isWhitespace }),
            let last = scalars.lastIndex(where: { !$0.properties.isWhitespace })
        else { return "" }
        return String(scalars[first...last])
    }

    /// Answers whether there was room.
    func bodyBytes(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard bytes.count <= request.maximumResponseBytes - body.count else {
            failure = responseTooLong
            return false
        }
        body.append(contentsOf: bytes)
        return true
    }

    var responseTooLong: OutboundFailure {
        OutboundFailure(
            .limit, "The answer is longer than \(request.maximumResponseBytes) bytes (limit httpResponseBytes).")
    }

    /// Makes the socket for an address that a name has led to, if it may lead there.
    func openSocket(_ address: UnsafePointer<curl_sockaddr>) -> Int32 {
        // The structure is longer than its type says where the address is: `addrlen` bytes begin at `addr`.
        let parts = MemoryLayout<curl_sockaddr>.offset(of: \.addr).flatMap { offset in
            IPAddress.parts(of: UnsafeRawPointer(address) + offset, length: Int(address.pointee.addrlen))
        }
        let address = address.pointee
        guard let parts, allowed.allows(parts.address, port: parts.port, for: target.host) else {
            let shown = parts.map { "\($0.address)" } ?? "an address of an unknown kind"
            failure = OutboundFailure(
                .forbidden,
                "\(target.name) leads to \(shown), which is not public: allow the address as well (--http-allow "
                    + "\(shown)).")
            return CURL_SOCKET_BAD
        }
        return socket(address.family, address.socktype | Int32(SOCK_CLOEXEC.rawValue), address.protocol)
    }
}
