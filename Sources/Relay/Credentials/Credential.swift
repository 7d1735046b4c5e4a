/// What a secret allows, and where and until when. The secret itself is not in here. A class, because thousands of
/// connections can hold the same one.
package final class Credential: Equatable, Sendable {
    /// The public half: it names the credential in lists and logs, and stands before the dot in its secret.
    package let id: String
    package let rights: [Right]
    /// The only app it is for; nil is every app.
    package let app: String?
    /// From this second since 1970 on it is refused; nil is never.
    package let expires: Int64?
    /// The only addresses it may be presented from; nil is any.
    package let cidr: CIDR?
    /// How many connections may hold it at a time; nil is unlimited. The transport counts.
    package let maxConnections: Int?

    package init(
        id: String, rights: [Right], app: String? = nil, expires: Int64? = nil, cidr: CIDR? = nil,
        maxConnections: Int? = nil
    ) {
        self.id = id
        self.rights = rights
        self.app = app
        self.expires = expires
        self.cidr = cidr
        self.maxConnections = maxConnections
    }

    package static func == (a: Credential, b: Credential) -> Bool {
        (a.id, a.rights, a.app, a.expires, a.cidr, a.maxConnections)
            == (b.id, b.rights, b.app, b.expires, b.cidr, b.maxConnections)
    }

    /// It may do everything.
    package var isAdmin: Bool { rights.contains(.admin) }

    // One of its rights allows it; admin allows everything. Whether the credential holds at all (app, time, address)
    // `CredentialStore.verify` has said.

    package func allows(invoke instruction: String) -> Bool { allows(.invoke(instruction)) }
    package func allows(listen server: ServerID) -> Bool { allows(.listen(server)) }
    package func allows(connect server: ServerID, port: UInt16) -> Bool { allows(.connect(server, port: port)) }
    package func allows(_ access: Right.Access) -> Bool { rights.contains { $0.allows(access) } }

    /// An admin credential that holds everywhere and for ever: while one of these is left, nobody is locked out.
    var isLastingAdmin: Bool { isAdmin && app == nil && expires == nil && cidr == nil }
}

/// What presenting a secret came to.
package enum Verification: Sendable, Equatable {
    case accepted(Credential)
    case refused(Refusal)

    /// Why not. For the log and the counters; a stranger is told `unauthorized` whatever it was.
    package enum Refusal: String, Sendable {
        /// No such id, or not its secret, or no secret at all.
        case unknown
        case revoked
        case expired
        case wrongApp
        case wrongAddress
    }
}

/// Why a credential or the store could not be made, read or changed. `description` is one sentence for the operator.
package enum CredentialError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A file or directory of the state could not be read or written.
    case file(path: String, action: String, reason: String)
    /// A file is there and does not hold what it should. It is left as it is.
    case damaged(path: String, reason: String)
    /// Revoking it would leave no admin credential that holds everywhere and for ever.
    case lastAdmin(id: String)
    case badRequest(reason: String)
    /// The store holds as many credentials as it may.
    case limit(Int)

    package var description: String {
        switch self {
        case .file(let path, let action, let reason): "cannot \(action) \(path): \(reason)"
        case .damaged(let path, let reason):
            "\(path) is damaged (\(reason)): mend it, or move it away to start without what it held"
        case .lastAdmin(let id):
            "credential \(id) is the last admin credential without expiry, app or address range: create another "
                + "before revoking it"
        case .badRequest(let reason): reason
        case .limit(let count):
            "there are \(count) credentials, which is the limit: revoke some that are not needed"
        }
    }
}
