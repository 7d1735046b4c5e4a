/// What somebody asks a new credential to be, checked: everything of a credential but its id.
struct CredentialForm {
    static let maximumRights = 32
    static let maximumAppBytes = 256

    private let rights: [Right]
    private let app: String?
    private let expires: Int64?
    private let cidr: CIDR?
    private let maxConnections: Int?

    /// Throws one sentence for the first thing that is wrong.
    init(
        rights: [String], app: String?, expires: Int64?, cidr: String?, maxConnections: Int?
    ) throws(CredentialError) {
        guard !rights.isEmpty else { throw .badRequest(reason: "a credential needs at least one right") }
        guard rights.count <= Self.maximumRights else {
            throw .badRequest(reason: "a credential has at most \(Self.maximumRights) rights")
        }
        var parsed: [Right] = []
        for text in rights {
            guard let right = Right(text) else {
                throw .badRequest(
                    reason: "'\(text.prefix(80))' is no right: use admin, listen:SERVER, connect:SERVER:PORTS or "
                        + "invoke:INSTRUCTION")
            }
            if !parsed.contains(right) { parsed.append(right) }
        }
        if let app, app.isEmpty || app.utf8.count > Self.maximumAppBytes {
            throw .badRequest(reason: "the app of a credential is a name of 1 to \(Self.maximumAppBytes) bytes")
        }
        if let expires, expires <= 0 {
            throw .badRequest(reason: "expires is in seconds since 1970, so \(expires) is long over")
        }
        if let maxConnections, maxConnections < 1 {
            throw .badRequest(reason: "maxConnections is at least 1, not \(maxConnections)")
        }
        self.rights = parsed
        self.app = app
        self.expires = expires
        if let cidr {
            guard let range = CIDR(cidr) else {
                throw .badRequest(reason: "'\(cidr.prefix(80))' is no address range: use 192.0.2.0/24 or 2001:db8::/32")
            }
            self.cidr = range
        } else {
            self.cidr = nil
        }
        self.maxConnections = maxConnections
    }

    func credential(id: String) -> Credential {
        Credential(
            id: id, rights: rights, app: app, expires: expires, cidr: cidr, maxConnections: maxConnections)
    }
}
