// The one file of this folder that knows JSON.
import FoundationEssentials

/// `credentials.json`: what the store keeps, without any secret.
enum CredentialFile {
    /// Changes when an older relayd could not read the file any more.
    private static let version = 1
    /// Far more than `CredentialStore.maximumCount` credentials of usual size.
    private static let maximumBytes = 64 << 20

    private struct Document: Codable {
        var version: Int
        var credentials: [Record]
    }

    private struct Record: Codable {
        var id: String
        var rights: [String]
        var app: String?
        var expires: Int64?
        var cidr: String?
        var maxConnections: Int?
        /// base64url of 16 bytes.
        var salt: String
        /// base64url of SHA-256 over salt and secret.
        var digest: String
        /// Written only where it is true.
        var revoked: Bool?
    }

    /// All entries, in the file's order; none where there is no file. Throws where the file cannot be read, or any part
    /// of it makes no sense: a store that forgets silently would let revoked credentials back in.
    static func read(_ path: String) throws(CredentialError) -> [CredentialStore.Entry] {
        let bytes: [UInt8]
        do throws(FileFailure) {
            bytes = try StateFile.read(path, maximumBytes: maximumBytes).bytes
        } catch  where error.isMissing {
            return []
        } catch {
            throw CredentialError(error)
        }
        let document = try decode(bytes, path)
        guard document.version == version else {
            throw .damaged(path: path, reason: "it has version \(document.version), this relayd reads \(version)")
        }
        var entries: [CredentialStore.Entry] = []
        var ids: Set<String> = []
        for record in document.credentials {
            guard ids.insert(record.id).inserted else {
                throw .damaged(path: path, reason: "credential \(record.id) is in it twice")
            }
            entries.append(try entry(record, path))
        }
        return entries
    }

    /// Replaces the file, on disk when this returns.
    static func write(_ entries: [CredentialStore.Entry], to path: String) throws(CredentialError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        let bytes: [UInt8]
        do {
            bytes = Array(try encoder.encode(Document(version: version, credentials: entries.map(record)))) + [10]
        } catch {
            throw .file(path: path, action: "write", reason: "\(error)")
        }
        guard bytes.count <= maximumBytes else {
            throw .file(path: path, action: "write", reason: "it would be longer than \(maximumBytes) bytes")
        }
        try rethrowing { () throws(FileFailure) in try StateFile.replace(path, with: bytes) }
    }

    private static func decode(_ bytes: [UInt8], _ path: String) throws(CredentialError) -> Document {
        do {
            return try JSONDecoder().decode(Document.self, from: Data(bytes))
        } catch let error as DecodingError {
            throw .damaged(path: path, reason: reason(of: error))
        } catch {
            throw .damaged(path: path, reason: "it is not JSON")
        }
    }

    private static func reason(of error: DecodingError) -> String {
        func place(_ context: DecodingError.Context, _ last: (any CodingKey)? = nil) -> String {
            (context.codingPath + (last.map { [$0] } ?? [])).map { key in
                key.intValue.map(String.init) ?? key.stringValue
            }.joined(separator: ".")
        }
        return switch error {
        case .keyNotFound(let key, let context): "'\(place(context, key))' is missing"
        case .typeMismatch(_, let context), .valueNotFound(_, let context):
            context.codingPath.isEmpty
                ? "it is not a JSON object" : "'\(place(context))' has the wrong type"
        default: "it is not JSON"
        }
    }

    private static func entry(_ record: Record, _ path: String) throws(CredentialError) -> CredentialStore.Entry {
        guard Secret.isID(record.id.utf8) else { throw .damaged(path: path, reason: "an id in it is no id") }
        guard let salt = TextEncoding.decodeBase64URL(record.salt.utf8),
            let digest = TextEncoding.decodeBase64URL(record.digest.utf8),
            let hash = SecretHash(salt: salt, digest: digest)
        else { throw .damaged(path: path, reason: "salt or digest of credential \(record.id) is none") }
        let form: CredentialForm
        do throws(CredentialError) {
            form = try CredentialForm(
                rights: record.rights, app: record.app, expires: record.expires, cidr: record.cidr,
                maxConnections: record.maxConnections)
        } catch {
            throw .damaged(path: path, reason: "credential \(record.id): \(error)")
        }
        return CredentialStore.Entry(
            credential: form.credential(id: record.id), hash: hash, isRevoked: record.revoked ?? false)
    }

    private static func record(_ entry: CredentialStore.Entry) -> Record {
        let credential = entry.credential
        return Record(
            id: credential.id, rights: credential.rights.map(\.description), app: credential.app,
            expires: credential.expires, cidr: credential.cidr?.description,
            maxConnections: credential.maxConnections, salt: TextEncoding.base64URL(entry.hash.salt),
            digest: TextEncoding.base64URL(entry.hash.digest), revoked: entry.isRevoked ? true : nil)
    }
}
