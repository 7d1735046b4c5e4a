/// The text that proves a credential: `<id>.<43 characters>`, the latter base64url of 32 random bytes. Shown once, by
/// asking for `text`; printing the value shows none of it.
package struct Secret: Sendable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// The public half.
    package let id: String
    /// The whole of it. Whoever reads this property takes care where it goes.
    package let text: String

    static let randomBytes = 32
    static let randomCharacters = 43
    static let maximumIDBytes = 64

    /// A new one, with a new random id of 12 hexadecimal digits.
    init() {
        id = TextEncoding.hex(SecureRandom.bytes(6))
        text = id + "." + TextEncoding.base64URL(SecureRandom.bytes(Self.randomBytes))
    }

    /// Reads one; nil where the form is another.
    init?(_ text: String) {
        let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, Self.isID(parts[0].utf8), parts[1].utf8.count == Self.randomCharacters,
            TextEncoding.decodeBase64URL(parts[1].utf8)?.count == Self.randomBytes
        else { return nil }
        self.id = String(parts[0])
        self.text = text
    }

    /// The id in what somebody presents; nil where there is none that could be one.
    static func id(in presented: UnsafeRawBufferPointer) -> String? {
        guard let dot = presented.prefix(maximumIDBytes + 1).firstIndex(of: UInt8(ascii: ".")),
            isID(presented[..<dot])
        else { return nil }
        return String(decoding: presented[..<dot], as: UTF8.self)
    }

    static func isID(_ text: some Collection<UInt8>) -> Bool {
        (1...maximumIDBytes).contains(text.count) && text.allSatisfy { TextEncoding.base64URLValue($0) != nil }
    }

    package var description: String { "‹secret›" }
    package var debugDescription: String { "‹secret›" }
    /// `dump` and string interpolation of enclosing values go through here.
    package var customMirror: Mirror { Mirror(self, children: []) }
}

/// What is kept of a secret: SHA-256 over salt and secret. One round is enough for 256 random bits; a slow hash would
/// protect guessable passwords, which these are not.
struct SecretHash: Sendable, Hashable {
    static let saltBytes = 16
    let salt: [UInt8]
    let digest: [UInt8]

    /// Hashes with a new salt.
    init(of secret: Secret) {
        let salt = SecureRandom.bytes(Self.saltBytes)
        self.salt = salt
        var text = secret.text
        digest = text.withUTF8 { Self.digest(salt, UnsafeRawBufferPointer($0)) }
    }

    /// Nil where the lengths are not those of a salt and a digest.
    init?(salt: [UInt8], digest: [UInt8]) {
        guard salt.count == Self.saltBytes, digest.count == Digest.sha256Bytes else { return nil }
        self.salt = salt
        self.digest = digest
    }

    /// Does the same work whatever the answer is.
    func matches(_ presented: UnsafeRawBufferPointer) -> Bool {
        let other = Self.digest(salt, presented)
        return other.withUnsafeBytes { other in digest.withUnsafeBytes { Digest.constantTimeEqual($0, other) } }
    }

    private static func digest(_ salt: [UInt8], _ text: UnsafeRawBufferPointer) -> [UInt8] {
        var joined = salt
        joined.reserveCapacity(salt.count + text.count)
        joined.append(contentsOf: text)
        return joined.withUnsafeBytes { Digest.sha256($0) }
    }
}
