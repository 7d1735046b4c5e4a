import Synchronization

/// All credentials of a relay: who presents which secret, and what that allows (DESIGN §9). Shared by all loops.
///
/// `STATE/admin.credential` holds the first admin credential's secret in clear, for its owner alone; it is hashed in
/// memory. `STATE/credentials.json` holds salted hashes of all others, and which were revoked. A change is on disk
/// before it is answered, and takes in what another relay on the same directory has written meanwhile.
package final class CredentialStore: Sendable {
    static let adminFileName = "admin.credential"
    static let fileName = "credentials.json"
    /// Revoked ones are not counted; the oldest of those are forgotten first.
    static let maximumCount = 10_000
    /// More than any secret has; what is longer is refused like any unknown one.
    private static let maximumPresentedBytes = 256

    /// A credential as the store keeps it.
    struct Entry: Sendable, Equatable {
        var credential: Credential
        var hash: SecretHash
        var isRevoked = false
    }

    /// What the loops look at, replaced whole by each change.
    private struct State: Sendable {
        /// In the order in which they were made; the admin file's first.
        var entries: [Entry] {
            didSet { index = Self.index(entries) }
        }
        private(set) var index: [String: Int]

        init(_ entries: [Entry]) {
            self.entries = entries
            index = Self.index(entries)
        }

        private static func index(_ entries: [Entry]) -> [String: Int] {
            Dictionary(entries.enumerated().map { ($1.credential.id, $0) }, uniquingKeysWith: { first, _ in first })
        }
    }

    private let state: Mutex<State>
    private let stateDirectory: String
    /// The admin file's secret, hashed.
    private let adminID: String
    private let adminHash: SecretHash
    /// Stands in for the hash of an id that nobody has, so that looking for one takes as long as refusing a known one.
    private let decoy = SecretHash(of: Secret())
    /// The path of the admin credential's file.
    package let adminFile: String
    /// The admin credential was made by this `open`: the relay's first start.
    package let isNew: Bool
    /// What an operator should know, one sentence each; to be logged as warnings.
    package let notes: [String]

    /// Opens the store of a state directory, which is made (0700) where it does not exist. The first time an admin
    /// credential is made and written to `admin.credential` (0600).
    /// Throws where a file cannot be read or written, or does not hold what it should; nothing is replaced then.
    package static func open(stateDirectory: String) throws(CredentialError) -> CredentialStore {
        try CredentialStore(stateDirectory)
    }

    private init(_ stateDirectory: String) throws(CredentialError) {
        self.stateDirectory = stateDirectory
        adminFile = stateDirectory + "/" + Self.adminFileName
        try rethrowing { () throws(FileFailure) in try StateFile.makeDirectory(stateDirectory) }
        let admin = try Self.openAdminFile(adminFile, stateDirectory)
        isNew = admin.isNew
        adminID = admin.secret.id
        adminHash = SecretHash(of: admin.secret)
        notes =
            admin.permissions & 0o077 == 0
            ? [] : ["\(adminFile) holds an admin credential and others can read it: chmod 600 \(adminFile)"]
        let stored = try CredentialFile.read(stateDirectory + "/" + Self.fileName)
        state = Mutex(State(Self.merge(stored, adminID, adminHash)))
    }

    // MARK: Looking

    /// Finds out whose secret this is and whether it holds here and now. `app` is the app's name, `remoteAddress` the
    /// peer's address without a port (any other text is no address, which only matters to credentials with a range),
    /// `now` seconds since 1970. Why a secret is refused is only told to those who have it.
    package func verify(
        _ secret: UnsafeRawBufferPointer, app: String, remoteAddress: String, now: Int64
    ) -> Verification {
        let presented = UnsafeRawBufferPointer(rebasing: secret.prefix(Self.maximumPresentedBytes))
        let id = secret.count == presented.count ? Secret.id(in: presented) : nil
        let entry = id.flatMap { id in
            state.withLock { state in state.index[id].map { state.entries[$0] } }
        }
        let isRight = (entry?.hash ?? decoy).matches(presented)
        guard let entry, isRight else { return .refused(.unknown) }
        let credential = entry.credential
        if entry.isRevoked { return .refused(.revoked) }
        if let expires = credential.expires, now >= expires { return .refused(.expired) }
        if let only = credential.app, only != app { return .refused(.wrongApp) }
        if let range = credential.cidr {
            guard let address = IPAddress(remoteAddress), range.contains(address) else {
                return .refused(.wrongAddress)
            }
        }
        return .accepted(credential)
    }

    /// Whether there is a credential of this id that is not revoked.
    package func isCurrent(_ id: String) -> Bool {
        state.withLock { state in state.index[id].map { !state.entries[$0].isRevoked } ?? false }
    }

    /// All credentials that were not revoked, expired ones included, in the order in which they were made.
    package func list() -> [Credential] {
        state.withLock { $0.entries }.compactMap { $0.isRevoked ? nil : $0.credential }
    }

    // MARK: Changing

    /// Makes a credential and returns it with its secret, which nobody can ask for again. `rights` and `cidr` are as in
    /// DESIGN §9; `expires` is seconds since 1970. It is on disk when this returns.
    package func create(
        rights: [String], app: String? = nil, expires: Int64? = nil, cidr: String? = nil, maxConnections: Int? = nil
    ) throws(CredentialError) -> (credential: Credential, secret: String) {
        let form = try CredentialForm(
            rights: rights, app: app, expires: expires, cidr: cidr, maxConnections: maxConnections)
        return try change { (entries) throws(CredentialError) in
            var secret = Secret()
            while entries.contains(where: { $0.credential.id == secret.id }) { secret = Secret() }
            let credential = form.credential(id: secret.id)
            guard entries.count(where: { !$0.isRevoked }) < Self.maximumCount else {
                throw .limit(Self.maximumCount)
            }
            // Forgetting a revoked one turns "revoked" into "unknown". The admin file's must be remembered: its secret
            // is still in the file.
            if entries.count >= 2 * Self.maximumCount,
                let oldest = entries.firstIndex(where: { $0.isRevoked && $0.credential.id != adminID })
            {
                entries.remove(at: oldest)
            }
            entries.append(Entry(credential: credential, hash: SecretHash(of: secret)))
            return (credential, secret.text)
        }
    }

    /// Revokes a credential for good; false where there is none of this id, or it is revoked already. The caller closes
    /// what it had opened. Throws for the last admin credential that holds everywhere and for ever.
    package func revoke(_ id: String) throws(CredentialError) -> Bool {
        guard state.withLock({ $0.index[id] != nil }) else { return false }
        return try change { (entries) throws(CredentialError) in
            guard let index = entries.firstIndex(where: { $0.credential.id == id }), !entries[index].isRevoked else {
                return false
            }
            if entries[index].credential.isLastingAdmin {
                let isAnotherLeft = entries.contains { entry in
                    entry.credential.isLastingAdmin && !entry.isRevoked && entry.credential.id != id
                }
                guard isAnotherLeft else { throw .lastAdmin(id: id) }
            }
            entries[index].isRevoked = true
            return true
        }
    }

    /// Reads, changes and writes the file under the directory's lock, then shows the result to the loops. A failure
    /// leaves both as they were.
    private func change<Result>(
        _ body: (inout [Entry]) throws(CredentialError) -> Result
    ) throws(CredentialError) -> Result {
        let path = stateDirectory + "/" + Self.fileName
        let lock = try rethrowing { () throws(FileFailure) in try StateFile.lock(stateDirectory) }
        defer { StateFile.unlock(lock) }
        var entries = Self.merge(try CredentialFile.read(path), adminID, adminHash)
        let before = entries
        let result = try body(&entries)
        if entries != before {
            // The admin credential is in its own file; here it only needs to be known as revoked.
            try CredentialFile.write(entries.filter { $0.credential.id != adminID || $0.isRevoked }, to: path)
        }
        state.withLock { $0 = State(entries) }
        return result
    }

    /// The file's credentials with the admin file's in front. Where both have its id, it was revoked once.
    private static func merge(_ stored: [Entry], _ adminID: String, _ adminHash: SecretHash) -> [Entry] {
        let isRevoked = stored.contains { $0.credential.id == adminID && $0.isRevoked }
        let admin = Entry(
            credential: Credential(id: adminID, rights: [.admin]), hash: adminHash, isRevoked: isRevoked)
        return [admin] + stored.filter { $0.credential.id != adminID }
    }

    // MARK: The admin file

    /// The secret in a file of one line, for those who present it: the command line's `--credential-file`.
    package static func readSecret(from path: String) throws(CredentialError) -> Secret {
        try parseSecret(try rethrowing { () throws(FileFailure) in try StateFile.read(path) }.bytes, path)
    }

    private static func openAdminFile(
        _ path: String, _ stateDirectory: String
    ) throws(CredentialError) -> (secret: Secret, permissions: UInt32, isNew: Bool) {
        // The first look needs no lock, so a state directory that cannot be written to will do.
        if let found = try lookForAdminFile(path) { return (found.secret, found.permissions, false) }
        let lock = try rethrowing { () throws(FileFailure) in try StateFile.lock(stateDirectory) }
        defer { StateFile.unlock(lock) }
        // Of two relays that start at once, one finds what the other made.
        if let found = try lookForAdminFile(path) { return (found.secret, found.permissions, false) }
        let secret = Secret()
        try rethrowing { () throws(FileFailure) in
            try StateFile.replace(path, with: Array((secret.text + "\n").utf8))
        }
        return (secret, 0o600, true)
    }

    /// Nil where there is no such file.
    private static func lookForAdminFile(
        _ path: String
    ) throws(CredentialError) -> (secret: Secret, permissions: UInt32)? {
        let contents: StateFile.Contents
        do throws(FileFailure) {
            contents = try StateFile.read(path)
        } catch  where error.isMissing {
            return nil
        } catch {
            throw CredentialError(error)
        }
        return (try parseSecret(contents.bytes, path), contents.permissions)
    }

    private static func parseSecret(_ bytes: [UInt8], _ path: String) throws(CredentialError) -> Secret {
        let isSpace: (UInt8) -> Bool = { $0 == 0x20 || (0x09...0x0d).contains($0) }
        let text = bytes.drop(while: isSpace).reversed().drop(while: isSpace).reversed()
        guard !text.isEmpty else { throw .damaged(path: path, reason: "it is empty") }
        guard let secret = Secret(String(decoding: Array(text), as: UTF8.self)) else {
            throw .damaged(path: path, reason: "it does not hold one credential of the form ID.SECRET")
        }
        return secret
    }
}

extension CredentialError {
    /// The same failure, in this layer's words.
    init(_ failure: FileFailure) {
        self = .file(path: failure.path, action: failure.action, reason: failure.reason)
    }
}

/// Runs a file operation and says its failure in this layer's words.
func rethrowing<Result>(_ body: () throws(FileFailure) -> Result) throws(CredentialError) -> Result {
    do throws(FileFailure) {
        return try body()
    } catch {
        throw CredentialError(error)
    }
}
