internal import Synchronization

// HTTP requests of scripts, and what a script that hands messages on to somebody slow needs: a connection that is read
// no further.
extension App {
    private static let lastRequest = Atomic<UInt64>(0)
    /// Requests that may wait for each one that may be under way (limit `httpRequests`).
    private static let waitingPerRequest = 4

    package func request(_ request: OutboundRequest) -> Result<ScriptRequestID, OutboundFailure> {
        guard let outbound = shared.outbound, !isShutDown else {
            return .failure(OutboundFailure(.unavailable, "This relay makes no HTTP requests."))
        }
        let limits = loop.limits
        guard requests.count < limits.httpRequests * (1 + Self.waitingPerRequest) else {
            return .failure(
                OutboundFailure(
                    .limit,
                    "\(requests.count) requests of this app are under way or wait already (limit httpRequests)."))
        }
        let bytes = request.body?.count ?? 0
        guard requestedBytes + bytes <= limits.scriptMemory else {
            return .failure(
                OutboundFailure(.limit, "The requests that wait have too long bodies together (limit scriptMemory)."))
        }
        var request = request
        request.maximumResponseBytes = limits.httpResponseBytes
        let id = ScriptRequestID(rawValue: Self.lastRequest.wrappingAdd(1, ordering: .relaxed).newValue)
        requests[id.rawValue] = bytes
        requestedBytes += bytes
        shared.beginWork()
        let (transfer, mailbox) = (AppTransfer(self), loop.mailbox)
        outbound.perform(request, app: serial, atOnce: limits.httpRequests) { result in
            mailbox.post(.app(transfer, .answered(id, result)))
        }
        return .success(id)
    }

    func answered(_ id: ScriptRequestID, _ result: OutboundResult) {
        guard let bytes = requests.removeValue(forKey: id.rawValue) else { return }
        requestedBytes -= bytes
        isInEngine = true
        engine.answered(id, result)
        isInEngine = false
        settle()
        // Only now: the script may have begun the next one.
        shared.endWork()
    }

    package func hold(_ id: ConnectionID, _ isHeld: Bool) -> Bool {
        guard let connection = members[id], connection.isOpen else { return false }
        if isHeld {
            if held.insert(id).inserted { connection.beginWaiting() }
        } else if held.remove(id) != nil {
            connection.stopWaiting()
        }
        return true
    }

    package func takeMessages(of id: ConnectionID) -> Bool {
        guard let connection = members[id], connection.isOpen else { return false }
        uninstructed.insert(id)
        return true
    }
}
