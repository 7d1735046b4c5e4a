import Testing

@testable import Relay

@Suite struct DigestTests {
    /// FIPS 180-4's own examples and the empty text.
    @Test(arguments: [
        (
            "", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        ),
        (
            "abc", "a9993e364706816aba3e25717850c26c9cd0d89d",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        ),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        ),
    ])
    func `digests of the standard's examples`(text: String, sha1: String, sha256: String) {
        Array(text.utf8).withUnsafeBytes { bytes in
            #expect(TextEncoding.hex(Digest.sha1(bytes)) == sha1)
            #expect(TextEncoding.hex(Digest.sha256(bytes)) == sha256)
        }
    }

    /// RFC 4231 §4.3, §4.4, §4.7, and an empty key with an empty text.
    @Test(arguments: [
        (
            Array("Jefe".utf8), Array("what do ya want for nothing?".utf8),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        ),
        (
            [UInt8](repeating: 0xaa, count: 20), [UInt8](repeating: 0xdd, count: 50),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
        ),
        (
            [UInt8](repeating: 0xaa, count: 131), Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        ),
        ([], [], "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"),
    ])
    func `HMAC of RFC 4231`(key: [UInt8], text: [UInt8], expected: String) {
        // Twice, because a context that is copied must not be changed by its copies.
        for _ in 0..<2 {
            key.withUnsafeBytes { key in
                text.withUnsafeBytes { #expect(TextEncoding.hex(Digest.hmacSHA256(key: key, $0)) == expected) }
            }
        }
    }

    @Test func `digests from many threads at once`() async {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    (0..<500).allSatisfy { _ in
                        TextEncoding.hex(Array("abc".utf8).withUnsafeBytes { Digest.sha256($0) }) == expected
                    }
                }
            }
            for await isRight in group { #expect(isRight) }
        }
    }

    @Test func `constant-time comparison is a comparison`() {
        func equal(_ a: String, _ b: String) -> Bool {
            Array(a.utf8).withUnsafeBytes { a in Array(b.utf8).withUnsafeBytes { Digest.constantTimeEqual(a, $0) } }
        }
        #expect(equal("", ""))
        #expect(equal("secret", "secret"))
        #expect(!equal("secret", "secreT"))
        #expect(!equal("Secret", "secret"))
        #expect(!equal("secret", "secre"))
        #expect(!equal("", "s"))
        #expect(Digest.constantTimeEqual(.init(start: nil, count: 0), .init(start: nil, count: 0)))
    }

    @Test func `random bytes have the asked length and differ`() {
        #expect(SecureRandom.bytes(0).isEmpty)
        #expect(SecureRandom.bytes(33).count == 33)
        #expect(Set((0..<100).map { _ in SecureRandom.bytes(16) }).count == 100)
    }
}

@Suite struct TextEncodingTests {
    /// RFC 4648 §10, and the two characters in which the alphabets differ.
    @Test(arguments: [
        ("", "", ""), ("f", "Zg==", "Zg"), ("fo", "Zm8=", "Zm8"), ("foo", "Zm9v", "Zm9v"),
        ("foob", "Zm9vYg==", "Zm9vYg"),
        ("fooba", "Zm9vYmE=", "Zm9vYmE"), ("foobar", "Zm9vYmFy", "Zm9vYmFy"), ("~~~???", "fn5+Pz8/", "fn5-Pz8_"),
    ])
    func `base64 of RFC 4648`(text: String, padded: String, url: String) {
        let bytes = Array(text.utf8)
        #expect(Base64.encode(bytes) == padded)
        #expect(TextEncoding.base64URL(bytes) == url)
        #expect(TextEncoding.decodeBase64URL(url.utf8) == bytes)
    }

    @Test(arguments: ["Z", "Zg=", "Zg==", "Zh", "Zm9", "Zm9vY", "Zm+v", "Zm/v", "Zm v", "Zm9v\n", "Zmé"])
    func `what is not base64url is refused`(text: String) {
        #expect(TextEncoding.decodeBase64URL(text.utf8) == nil)
    }

    @Test func `bytes of all lengths and values come back`() {
        for count in 0..<70 {
            let bytes = SecureRandom.bytes(count)
            #expect(TextEncoding.decodeBase64URL(TextEncoding.base64URL(bytes).utf8) == bytes)
        }
        #expect(TextEncoding.hex([0, 9, 10, 15, 16, 159, 160, 255]) == "00090a0f109fa0ff")
    }
}
