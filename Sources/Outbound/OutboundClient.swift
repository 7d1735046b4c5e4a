internal import CCurl
internal import Glibc
package import Relay
internal import Synchronization

/// HTTP for scripts through libcurl's multi interface: one thread drives all requests, and keeps their connections.
///
/// `@unchecked Sendable`: what other threads touch is `inbox`, behind its lock, and `curl_multi_wakeup`, which is made
/// for that (curl_multi_wakeup(3)); all else belongs to the client's thread, which begins with the first request.
package final class OutboundClient: OutboundHTTP, @unchecked Sendable {
    private let allowed: HTTPAllowList
    private let certificateFile: String?
    private let multi: UnsafeMutableRawPointer

    private enum Command: Sendable {
        case begin(OutboundRequest, app: UInt64, atOnce: Int, deadline: UInt64, @Sendable (OutboundResult) -> Void)
        case cancelAll(app: UInt64)
        case stop
    }
    private struct Inbox {
        var commands: [Command] = []
        var thread: pthread_t?
    }
    private let inbox = Mutex(Inbox())

    /// The requests of one app.
    private struct Lane {
        var atOnce = 0
        var running = 0
        /// Those before `next` have begun.
        var waiting: [Transfer] = []
        var next = 0
    }
    private var lanes: [UInt64: Lane] = [:]
    /// By libcurl's handle.
    private var running: [UnsafeMutableRawPointer: Transfer] = [:]
    private var idle: [UnsafeMutableRawPointer] = []
    private let sockets = KeptSockets()
    private var isStopped = false

    /// A connection that takes longer than this to be made will not be made; a request's own limit can be shorter.
    private static let connectMilliseconds: UInt64 = 5_000
    /// Connections that are kept for the next request, and libcurl's handles, of some 5 KiB each.
    private static let keptConnections = 256
    private static let keptHandles = 256
    /// How often requests that wait for their turn are looked through for those that have waited too long.
    private static let waitingMilliseconds: Int32 = 50

    /// `certificateFile` holds the authorities (PEM) that servers are verified against; nil: the system's.
    package init(allowed: HTTPAllowList, certificateFile: String?) throws(StartError) {
        self.allowed = allowed
        self.certificateFile = certificateFile
        guard curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK, let multi = curl_multi_init() else {
            throw StartError("cannot start libcurl")
        }
        self.multi = multi
        _ = ccurl_multi_set_number(multi, CURLMOPT_MAXCONNECTS, Self.keptConnections)
        // Of HTTP/2, where the server takes as many; libcurl's own limit of 100 makes a connection for each one more.
        _ = ccurl_multi_set_number(multi, CURLMOPT_MAX_CONCURRENT_STREAMS, Self.keptConnections)
    }

    // MARK: From other threads

    package func perform(
        _ request: OutboundRequest, app: UInt64, atOnce: Int, answer: @escaping @Sendable (OutboundResult) -> Void
    ) {
        let deadline = System.monotonicMilliseconds() + UInt64(max(1, request.timeout.nanoseconds / 1_000_000))
        post(.begin(request, app: app, atOnce: atOnce, deadline: deadline, answer))
    }

    package func cancelAll(app: UInt64) { post(.cancelAll(app: app)) }

    private func post(_ command: Command) {
        let wakes = inbox.withLock { inbox in
            inbox.commands.append(command)
            guard inbox.thread != nil else {
                inbox.thread = System.startThread(name: "http") { self.run() }
                return false
            }
            return inbox.commands.count == 1
        }
        if wakes { curl_multi_wakeup(multi) }
    }

    package func stop() {
        guard let thread = inbox.withLock({ $0.thread }) else { return }
        post(.stop)
        pthread_join(thread, nil)
    }

    // MARK: The thread

    private func run() {
        while true {
            let commands = inbox.withLock { inbox in
                let commands = inbox.commands
                inbox.commands = []
                return commands
            }
            for command in commands { obey(command) }
            if isStopped { break }
            var count: Int32 = 0
            curl_multi_perform(multi, &count)
            while let message = curl_multi_info_read(multi, &count) {
                guard message.pointee.msg == CURLMSG_DONE, let easy = message.pointee.easy_handle else { continue }
                finished(easy, message.pointee.data.result)
            }
            let isWaiting = expireWaiting()
            curl_multi_poll(multi, nil, 0, isWaiting ? Self.waitingMilliseconds : 1_000, nil)
        }
    }

    private func obey(_ command: Command) {
        switch command {
        case .begin(let request, let app, let atOnce, let deadline, let answer):
            do throws(OutboundFailure) {
                let target = try Target(request.url, allowed)
                let transfer = Transfer(
                    request, target, app: app, deadline: deadline, allowed: allowed, sockets: sockets, answer: answer)
                lanes[app, default: Lane()].atOnce = atOnce
                lanes[app, default: Lane()].waiting.append(transfer)
                advance(app)
            } catch {
                answer(.failure(error))
            }
        case .cancelAll(let app):
            for (easy, transfer) in running where transfer.app == app { release(easy, transfer) }
            lanes[app] = nil
        case .stop:
            isStopped = true
        }
    }

    /// Begins what may begin.
    private func advance(_ app: UInt64) {
        while let lane = lanes[app], lane.running < lane.atOnce, lane.next < lane.waiting.count {
            lanes[app]?.next += 1
            let transfer = lane.waiting[lane.next]
            guard begin(transfer) else { continue }
            lanes[app]?.running += 1
        }
        guard let lane = lanes[app] else { return }
        if lane.running == 0, lane.next == lane.waiting.count {
            lanes[app] = nil
        } else if lane.next > lane.waiting.count / 2 {
            lanes[app]?.waiting.removeFirst(lane.next)
            lanes[app]?.next = 0
        }
    }

    /// Answers those that have waited for their turn too long; whether there are more that wait.
    private func expireWaiting() -> Bool {
        var isWaiting = false
        let now = System.monotonicMilliseconds()
        for (app, lane) in lanes where lane.next < lane.waiting.count {
            var waiting = Array(lane.waiting[lane.next...])
            for transfer in waiting where transfer.deadline <= now {
                transfer.answer(.failure(Self.timeout("its turn, since others were under way")))
            }
            waiting.removeAll { $0.deadline <= now }
            lanes[app]?.waiting = waiting
            lanes[app]?.next = 0
            isWaiting = isWaiting || !waiting.isEmpty
        }
        return isWaiting
    }

    private static func timeout(_ what: String) -> OutboundFailure {
        OutboundFailure(.timeout, "The time was over while the request waited for \(what).")
    }

    // MARK: One request

    /// Hands the transfer's present hop to libcurl. False where that failed, which it has been told.
    private func begin(_ transfer: Transfer) -> Bool {
        let now = System.monotonicMilliseconds()
        guard transfer.deadline > now else {
            transfer.answer(.failure(Self.timeout("its turn")))
            return false
        }
        guard let easy = idle.popLast() ?? curl_easy_init() else {
            transfer.answer(.failure(OutboundFailure(.unavailable, "There is no memory for another request.")))
            return false
        }
        Self.describe(transfer, to: easy, milliseconds: transfer.deadline - now)
        if let certificateFile { _ = ccurl_set_text(easy, CURLOPT_CAINFO, certificateFile) }
        guard curl_multi_add_handle(multi, easy) == CURLM_OK else {
            release(easy, transfer)
            transfer.answer(.failure(OutboundFailure(.unavailable, "libcurl has refused the request.")))
            return false
        }
        running[easy] = transfer
        return true
    }

    /// libcurl is done with the handle's transfer.
    private func finished(_ easy: UnsafeMutableRawPointer, _ code: CURLcode) {
        guard let transfer = running[easy] else { return }
        var status = 0
        _ = ccurl_get_number(easy, CURLINFO_RESPONSE_CODE, &status)
        var location: UnsafeMutablePointer<CChar>?
        _ = ccurl_get_text(easy, CURLINFO_REDIRECT_URL, &location)
        let redirect = code == CURLE_OK && transfer.request.redirects > 0 ? location.map { String(cString: $0) } : nil
        sockets.remember(easy)
        release(easy, transfer)
        // Nothing was sent yet.
        let isTriedAgain = transfer.mustBeFresh && code == CURLE_ABORTED_BY_CALLBACK
        if isTriedAgain, begin(transfer) { return }
        if let redirect, follow(transfer, to: redirect, status) { return }
        lanes[transfer.app]?.running -= 1
        if redirect == nil, !isTriedAgain { transfer.answer(Self.result(of: transfer, code, status)) }
        advance(transfer.app)
    }

    /// Goes on where a redirect leads. False where it cannot, which the transfer has been told.
    private func follow(_ transfer: Transfer, to url: String, _ status: Int) -> Bool {
        do throws(OutboundFailure) {
            let target = try Target(url, allowed, from: transfer.target)
            transfer.request.redirects -= 1
            transfer.request.redirect(status, staysAtOrigin: target.isSameOrigin(transfer.target))
            transfer.follow(url, target)
            return begin(transfer)
        } catch {
            transfer.answer(.failure(OutboundFailure(error.code, "A redirect: \(error.message)", status: status)))
            return false
        }
    }

    private static func result(of transfer: Transfer, _ code: CURLcode, _ status: Int) -> OutboundResult {
        let known = status == 0 ? nil : status
        switch code {
        case CURLE_OK:
            return .success(OutboundResponse(status: status, headers: transfer.headers, body: transfer.body))
        case CURLE_OPERATION_TIMEDOUT:
            return .failure(
                OutboundFailure(.timeout, "\(transfer.target.name) has not answered in time.", status: known))
        case CURLE_FILESIZE_EXCEEDED:
            var failure = transfer.responseTooLong
            failure.status = known
            return .failure(failure)
        default:
            if var failure = transfer.failure {
                failure.status = known
                return .failure(failure)
            }
            let reason = String(cString: curl_easy_strerror(code))
            return .failure(
                OutboundFailure(
                    .unavailable, "No answer of \(transfer.target.name):\(transfer.target.port): \(reason).",
                    status: known))
        }
    }

    /// The transfer is libcurl's no more, and its handle is kept for another.
    private func release(_ easy: UnsafeMutableRawPointer, _ transfer: Transfer) {
        curl_multi_remove_handle(multi, easy)
        running[easy] = nil
        curl_slist_free_all(transfer.headerList)
        transfer.headerList = nil
        guard idle.count < Self.keptHandles else { return curl_easy_cleanup(easy) }
        curl_easy_reset(easy)
        idle.append(easy)
    }

    // MARK: libcurl's options

    private static func describe(_ transfer: Transfer, to easy: UnsafeMutableRawPointer, milliseconds: UInt64) {
        let request = transfer.request
        _ = ccurl_set_text(easy, CURLOPT_URL, request.url)
        _ = ccurl_set_text(easy, CURLOPT_PROTOCOLS_STR, "http,https")
        // Nothing from the environment decides: no proxy, no .netrc, no signals.
        _ = ccurl_set_text(easy, CURLOPT_PROXY, "")
        _ = ccurl_set_number(easy, CURLOPT_NOSIGNAL, 1)
        // A resolver's thread that is still waiting is left behind, since all other requests would wait for it, too.
        _ = ccurl_set_number(easy, CURLOPT_QUICK_EXIT, 1)
        _ = ccurl_set_number(easy, CURLOPT_HTTP_VERSION, Int(CURL_HTTP_VERSION_2TLS))
        // On TLS it is worth to wait and see whether the connection that is being made takes many requests.
        _ = ccurl_set_number(easy, CURLOPT_PIPEWAIT, transfer.target.isSecure ? 1 : 0)
        _ = ccurl_set_number(easy, CURLOPT_TIMEOUT_MS, Int(clamping: milliseconds))
        _ = ccurl_set_number(easy, CURLOPT_CONNECTTIMEOUT_MS, Int(min(milliseconds, connectMilliseconds)))
        _ = ccurl_set_size(easy, CURLOPT_MAXFILESIZE_LARGE, Int(request.maximumResponseBytes))
        describeBody(request, easy)
        transfer.headerList = headerList(request)
        _ = ccurl_set_pointer(easy, CURLOPT_HTTPHEADER, transfer.headerList)
        // SAFETY: `running` holds the transfer as long as libcurl has the handle; `release` takes both away.
        let context = Unmanaged.passUnretained(transfer).toOpaque()
        _ = ccurl_set_pointer(easy, CURLOPT_WRITEDATA, context)
        _ = ccurl_set_pointer(easy, CURLOPT_HEADERDATA, context)
        _ = ccurl_set_pointer(easy, CURLOPT_OPENSOCKETDATA, context)
        _ = ccurl_set_writer(easy, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
            // More or less than all of it stops the transfer (CURLOPT_WRITEFUNCTION(3)).
            let taken = withTransfer(context) { $0.bodyBytes(.init(start: bytes, count: size * count)) }
            return taken ? size * count : size * count &+ 1
        }
        _ = ccurl_set_writer(easy, CURLOPT_HEADERFUNCTION) { bytes, size, count, context in
            let taken = withTransfer(context) { $0.headerLine(.init(start: bytes, count: size * count)) }
            return taken ? size * count : size * count &+ 1
        }
        _ = ccurl_set_number(easy, CURLOPT_FRESH_CONNECT, transfer.mustBeFresh ? 1 : 0)
        _ = ccurl_set_pointer(easy, CURLOPT_PREREQDATA, context)
        _ = ccurl_set_checker(easy) { context, _, _, _, localPort in
            withTransfer(context) { $0.mayUse(localPort: Int(localPort)) }
                ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT
        }
        _ = ccurl_set_opener(easy) { context, _, address in
            guard let address else { return CURL_SOCKET_BAD }
            return withTransfer(context) { $0.openSocket(address) }
        }
    }

    private static func describeBody(_ request: OutboundRequest, _ easy: UnsafeMutableRawPointer) {
        if request.method == "HEAD" {
            _ = ccurl_set_number(easy, CURLOPT_NOBODY, 1)
            return
        }
        // A method that means a body says so when it has none: with Content-Length: 0 (RFC 9110 §8.6).
        let body = request.body ?? (["POST", "PUT", "PATCH"].contains(request.method) ? [] : nil)
        if let body {
            _ = ccurl_set_size(easy, CURLOPT_POSTFIELDSIZE_LARGE, body.count)
            body.withUnsafeBytes { bytes in
                let start = bytes.baseAddress?.assumingMemoryBound(to: CChar.self)
                _ =
                    start == nil
                    ? ccurl_set_text(easy, CURLOPT_COPYPOSTFIELDS, "")
                    : ccurl_set_text(easy, CURLOPT_COPYPOSTFIELDS, start)
            }
        }
        _ = ccurl_set_text(easy, CURLOPT_CUSTOMREQUEST, request.method)
    }

    private static func headerList(_ request: OutboundRequest) -> UnsafeMutablePointer<curl_slist>? {
        var list: UnsafeMutablePointer<curl_slist>?
        var names: Set<String> = []
        for (name, value) in request.headers {
            names.insert(name.lowercased())
            // libcurl writes a header without a value as "Name;".
            list = curl_slist_append(list, value.isEmpty ? "\(name);" : "\(name): \(value)")
        }
        if !names.contains("user-agent") { list = curl_slist_append(list, "User-Agent: relayd") }
        // libcurl's own notions, switched off: the wait for a 100, and a form's type.
        list = curl_slist_append(list, "Expect:")
        if !names.contains("content-type") { list = curl_slist_append(list, "Content-Type:") }
        return list
    }
}

private func withTransfer<Result>(_ context: UnsafeMutableRawPointer?, _ body: (Transfer) -> Result) -> Result {
    guard let context else { preconditionFailure("a callback without its transfer") }
    // SAFETY: see `OutboundClient.describe`.
    return Unmanaged<Transfer>.fromOpaque(context)._withUnsafeGuaranteedRef(body)
}

extension OutboundRequest {
    /// What becomes of a request that is redirected (RFC 9110 §15.4): 303 asks with GET, and by custom 301 and 302
    /// after a POST do. Credentials do not leave their origin.
    fileprivate mutating func redirect(_ status: Int, staysAtOrigin: Bool) {
        if (status == 303 && method != "HEAD") || ((301...302).contains(status) && method == "POST") {
            method = "GET"
            body = nil
            headers.removeAll { $0.name.lowercased().hasPrefix("content-") }
        }
        if !staysAtOrigin {
            headers.removeAll { ["authorization", "cookie"].contains($0.name.lowercased()) }
        }
    }
}
