internal import Logging

// HTTP requests that scripts answer: `relay.on("request", …)`.
extension App {
    var servesRequests: Bool { self.set.chains[.request] != nil }

    /// Asks the scripts for the answer to a request that is whole.
    func answer(_ request: PendingRequest, _ head: RequestHead, on connection: Connection) {
        // The hooks may have gone while the body came.
        guard let chain = set.chains[.request] else { return connection.respondUnanswered() }
        let body = request.body
        request.body = []
        body.withUnsafeBytes { body in
            let arguments = CallArguments.request(
                connection: connection.id, serial: request.serial, method: head.method, body: body)
            call(chain, .fixed("request hook"), arguments, .request(connection.id, request.serial))
        }
    }

    func finishRequest(_ connection: Connection, _ outcome: CallOutcome) {
        switch outcome {
        case .response(let status, let fields, let body):
            connection.respond(HTTPStatus(code: status), fields: fields, body: body)
        case .returned:
            connection.respondUnanswered()
        case .failed(let failure):
            unattendedFailure(failure)
            guard let request = connection.pendingRequest else { return }
            let elapsed = System.monotonicMilliseconds() - request.began
            if failure.code == .budgetExceeded, elapsed >= loop.limits.callTime.wholeMilliseconds {
                connection.respond(.gatewayTimeout, "The script did not answer within the callTime.")
            } else {
                connection.respond(.internalServerError, "A script that answers requests failed.")
            }
        case .refused, .connect, .suspended:
            preconditionFailure("a request's call ended as another's")
        }
    }

    /// The connection whose request this is, as long as it waits for the answer.
    func requester(_ id: ConnectionID, _ serial: CallID) -> Connection? {
        guard let connection = members[id]?.here, connection.pendingRequest?.serial == serial else { return nil }
        return connection
    }

    package func may(_ connection: ConnectionID, _ serial: CallID, _ right: String) -> Bool? {
        guard let access = Right.Access(right) else { return nil }
        return requester(connection, serial)?.pendingRequest?.may(access) == true
    }
}
