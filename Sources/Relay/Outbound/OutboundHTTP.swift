// The seam between the core and what makes HTTP requests for scripts (`relay.http`). The core knows requests, answers
// and this protocol; the library behind it lives in a target of its own, on a thread of its own.

/// One request to a server elsewhere, as a script has asked for it.
package struct OutboundRequest: Sendable {
    package var method: String
    package var url: String
    package var headers: [(name: String, value: String)]
    /// Nil where there is none, which is not the same as an empty one.
    package var body: [UInt8]?
    /// For the whole of it, redirects and waiting for its turn included.
    package var timeout: Duration
    /// How many redirects are followed; with 0 the redirect itself is the answer.
    package var redirects: Int
    package var maximumResponseBytes = 1 << 20

    package init(
        method: String, url: String, headers: [(name: String, value: String)] = [], body: [UInt8]? = nil,
        timeout: Duration = .seconds(10), redirects: Int = 0
    ) {
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.timeout = timeout
        self.redirects = redirects
    }
}

package struct OutboundResponse: Sendable {
    package var status: Int
    /// Without NULs. Lower-case names, each once: values of a name that came several times are joined with ", "
    /// (RFC 9110 §5.3).
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]

    package init(status: Int, headers: [(name: String, value: String)], body: [UInt8]) {
        self.status = status
        self.headers = headers
        self.body = body
    }
}

/// Why there is no answer, or none that can be used.
package struct OutboundFailure: Error, Sendable {
    /// One of: bad_parameters, forbidden, limit, timeout, unavailable.
    package var code: ErrorCode
    package var message: String
    /// Where the server had answered with one, though the rest was of no use.
    package var status: Int?

    package init(_ code: ErrorCode, _ message: String, status: Int? = nil) {
        self.code = code
        self.message = message
        self.status = status
    }
}

package typealias OutboundResult = Result<OutboundResponse, OutboundFailure>

/// Makes HTTP requests, on a thread of its own.
package protocol OutboundHTTP: AnyObject, Sendable {
    /// Begins a request of the app with this serial, of which at most `atOnce` are under way at a time: more wait.
    /// `answer` is called once, on the client's thread; after `cancelAll` perhaps not at all.
    func perform(
        _ request: OutboundRequest, app: UInt64, atOnce: Int, answer: @escaping @Sendable (OutboundResult) -> Void)
    /// The app is removed: nobody waits for its answers any more.
    func cancelAll(app: UInt64)
    /// The relay ends: waits for the client's thread to end, which leaves what is under way as it is.
    func stop()
}
