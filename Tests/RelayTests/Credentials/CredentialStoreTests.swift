import Glibc
import Testing

@testable import Relay

@Suite struct CredentialStoreTests {
    let directory = TemporaryDirectory()

    private func open() throws -> CredentialStore { try CredentialStore.open(stateDirectory: directory.path) }

    private var adminSecret: String { (directory.text("admin.credential") ?? "").trimmed }

    @Test func `the first start makes one admin credential for its owner alone`() throws {
        let store = try CredentialStore.open(stateDirectory: directory.file("a/state"))
        #expect(store.isNew)
        #expect(store.notes.isEmpty)
        #expect(store.adminFile == directory.file("a/state/admin.credential"))
        #expect(directory.permissions("a/state") == 0o700)
        #expect(directory.permissions("a/state/admin.credential") == 0o600)
        let text = try #require(directory.text("a/state/admin.credential"))
        #expect(text.wholeMatch(of: /[0-9a-f]{12}\.[A-Za-z0-9_-]{43}\n/) != nil)
        #expect(store.list().map(\.rights) == [[.admin]])
        #expect(directory.text("a/state/credentials.json") == nil)
    }

    @Test func `later starts accept the same secret and nothing else`() throws {
        _ = try open()
        let secret = adminSecret
        let store = try open()
        #expect(!store.isNew)
        #expect(adminSecret == secret)
        guard case .accepted(let credential) = store.verify(secret) else {
            Issue.record("refused")
            return
        }
        #expect(credential.isAdmin && credential.isLastingAdmin)
        #expect(secret.hasPrefix(credential.id + "."))
        for wrong in [
            "", ".", credential.id, credential.id + ".", secret + "x", String(secret.dropLast()), "x" + secret,
            "x." + secret, secret.uppercased(), String(secret.reversed()), " " + secret, secret + "\n",
            String(repeating: "a", count: 100_000), credential.id + "." + String(repeating: "A", count: 43), "é.é",
            "\0",
        ] {
            #expect(store.verify(wrong) == .refused(.unknown), "\(wrong.prefix(60))")
        }
    }

    @Test func `a created credential holds as it says, and after a restart`() throws {
        let made = try open().create(
            rights: ["listen:box-*", "connect:*:22,80-90", "invoke:forward to *"], app: "chat", expires: 2000,
            cidr: "10.1.2.3/8", maxConnections: 3)
        for store in [try open(), try open()] {
            #expect(store.verify(made.secret, app: "chat", from: "10.9.9.9", now: 1999) == .accepted(made.credential))
            #expect(
                store.verify(made.secret, app: "chat", from: "::ffff:10.9.9.9", now: 0) == .accepted(made.credential))
            #expect(store.verify(made.secret, app: "chat", from: "10.9.9.9", now: 2000) == .refused(.expired))
            #expect(store.verify(made.secret, app: "default", from: "10.9.9.9", now: 0) == .refused(.wrongApp))
            #expect(store.verify(made.secret, app: "chat", from: "11.0.0.1", now: 0) == .refused(.wrongAddress))
            #expect(store.verify(made.secret, app: "chat", from: "unix:", now: 0) == .refused(.wrongAddress))
            #expect(store.verify(made.secret + "A", app: "x", from: "x", now: 9999) == .refused(.unknown))
            #expect(store.list().last == made.credential)
        }
        let credential = made.credential
        #expect(credential.cidr?.description == "10.0.0.0/8" && credential.maxConnections == 3)
        #expect(credential.allows(listen: .name("box-1")) && !credential.allows(listen: .name("box")))
        #expect(credential.allows(connect: .name("x"), port: 85) && !credential.allows(connect: .name("x"), port: 91))
        #expect(credential.allows(invoke: "forward to client") && !credential.allows(invoke: "initialize"))
        #expect(!credential.allows(.administer) && !credential.isAdmin)
    }

    @Test func `nothing on disk or in print shows a created secret`() throws {
        let made = try open().create(rights: ["admin"])
        let random = try #require(made.secret.split(separator: ".").last)
        for name in directory.names where name != "admin.credential" {
            #expect(!(directory.text(name) ?? "").contains(random), "\(name)")
        }
        #expect(directory.permissions("credentials.json") == 0o600)
        let secret = try #require(Secret(made.secret))
        var dumped = ""
        dump((secret, [secret]), to: &dumped)
        #expect(!(dumped + "\(secret) \([secret]) \(String(reflecting: secret))").contains(random))
        #expect("\(secret)" == "‹secret›")
    }

    @Test func `a revoked credential stays revoked`() throws {
        let store = try open()
        let made = try store.create(rights: ["invoke:*"])
        #expect(try store.revoke(made.credential.id))
        #expect(store.verify(made.secret) == .refused(.revoked))
        #expect(try !store.revoke(made.credential.id))
        #expect(try !store.revoke("nobody"))
        #expect(try open().verify(made.secret) == .refused(.revoked))
        #expect(!store.list().contains(made.credential))
    }

    @Test func `the last admin credential cannot be revoked, the first one can`() throws {
        let store = try open()
        let first = try #require(store.list().first)
        #expect(throws: CredentialError.lastAdmin(id: first.id)) { try store.revoke(first.id) }
        // None of these is an admin everywhere and for ever.
        _ = try store.create(rights: ["admin"], app: "chat")
        _ = try store.create(rights: ["admin"], expires: 1 << 40)
        _ = try store.create(rights: ["admin"], cidr: "::1")
        _ = try store.create(rights: ["listen:*"])
        #expect(throws: CredentialError.lastAdmin(id: first.id)) { try store.revoke(first.id) }
        let second = try store.create(rights: ["admin"])
        #expect(try store.revoke(first.id))
        #expect(throws: CredentialError.lastAdmin(id: second.credential.id)) { try store.revoke(second.credential.id) }
        for store in [store, try open()] {
            #expect(store.verify(adminSecret) == .refused(.revoked))
            #expect(store.verify(second.secret) == .accepted(second.credential))
        }
        // A new file means a new credential; the old one is still known as revoked.
        let old = adminSecret
        unlink(directory.file("admin.credential"))
        let restarted = try open()
        #expect(restarted.isNew)
        #expect(restarted.verify(old) == .refused(.revoked))
        #expect(restarted.verify(adminSecret) != .refused(.revoked))
    }

    @Test func `two stores on one directory lose nothing of each other's`() throws {
        let one = try open()
        let two = try open()
        let a = try one.create(rights: ["invoke:a"])
        let b = try two.create(rights: ["invoke:b"])
        let c = try one.create(rights: ["invoke:c"])
        #expect(one.list().dropFirst() == [a.credential, b.credential, c.credential])
        let restarted = try open()
        for made in [a, b, c] { #expect(restarted.verify(made.secret) == .accepted(made.credential)) }
    }

    @Test func `many threads create and revoke at once`() async throws {
        let store = try open()
        let secrets = try await withThrowingTaskGroup(of: [String].self) { group in
            for _ in 0..<4 {
                group.addTask {
                    try (0..<10).map { round in
                        let made = try store.create(rights: ["invoke:*"])
                        if round % 2 == 0 { _ = try store.revoke(made.credential.id) }
                        return made.secret
                    }
                }
            }
            return try await group.reduce(into: []) { $0 += $1 }
        }
        let restarted = try open()
        for store in [store, restarted] {
            let refused = secrets.count { store.verify($0) == .refused(.revoked) }
            let unknown = secrets.count { store.verify($0) == .refused(.unknown) }
            #expect(refused == 20 && unknown == 0)
            #expect(store.list().count == 21)
        }
    }

    @Test(
        arguments: [
            ([], nil, nil, nil, nil, "a credential needs at least one right"),
            (
                ["fly"], nil, nil, nil, nil,
                "'fly' is no right: use admin, listen:SERVER, connect:SERVER:PORTS or invoke:INSTRUCTION"
            ),
            (["admin"], "", nil, nil, nil, "the app of a credential is a name of 1 to 256 bytes"),
            (["admin"], nil, 0, nil, nil, "expires is in seconds since 1970, so 0 is long over"),
            (
                ["admin"], nil, nil, "10.0.0.0/40", nil,
                "'10.0.0.0/40' is no address range: use 192.0.2.0/24 or 2001:db8::/32"
            ),
            (["admin"], nil, nil, nil, 0, "maxConnections is at least 1, not 0"),
            (Array(repeating: "admin", count: 33), nil, nil, nil, nil, "a credential has at most 32 rights"),
        ] as [([String], String?, Int64?, String?, Int?, String)])
    func `a wrong form is refused and changes nothing`(
        rights: [String], app: String?, expires: Int64?, cidr: String?, maxConnections: Int?, reason: String
    ) throws {
        let store = try open()
        #expect(throws: CredentialError.badRequest(reason: reason)) {
            try store.create(rights: rights, app: app, expires: expires, cidr: cidr, maxConnections: maxConnections)
        }
        #expect(store.list().count == 1)
        #expect(directory.text("credentials.json") == nil)
    }

    @Test func `an admin file that others can read is noted`() throws {
        _ = try open()
        for (mode, count) in [(0o640, 1), (0o604, 1), (0o400, 0), (0o600, 0)] as [(mode_t, Int)] {
            chmod(directory.file("admin.credential"), mode)
            let notes = try open().notes
            #expect(notes.count == count)
            #expect(notes.allSatisfy { $0.contains(directory.file("admin.credential")) && $0.contains("chmod 600") })
        }
    }

    @Test(arguments: [
        ("", "it is empty"), ("\n \r\n", "it is empty"),
        ("password\n", "it does not hold one credential of the form ID.SECRET"),
        ("a.b\n", "it does not hold one credential of the form ID.SECRET"),
        ("one two", "it does not hold one credential of the form ID.SECRET"),
    ])
    func `an admin file without a credential stops the start and stays`(text: String, reason: String) throws {
        let path = directory.write("admin.credential", text)
        #expect(throws: CredentialError.damaged(path: path, reason: reason)) { try open() }
        #expect(directory.text("admin.credential") == text)
    }

    @Test func `an admin file that is cut short stops the start`() throws {
        _ = try open()
        let secret = adminSecret
        directory.write("admin.credential", secret.dropLast().utf8)
        #expect(throws: CredentialError.self) { try open() }
        // White space around the secret is no damage.
        directory.write("admin.credential", "\n  " + secret + "\r\n\n")
        #expect(try open().verify(secret) != .refused(.unknown))
    }

    @Test func `what is in the way is named`() throws {
        mkdir(directory.file("admin.credential"), 0o700)
        let error = #expect(throws: CredentialError.self) { try open() }
        #expect(
            try #require(error).description
                == "cannot read \(directory.file("admin.credential")): it is not a regular file")
        let file = directory.write("file", "")
        let other = #expect(throws: CredentialError.self) { try CredentialStore.open(stateDirectory: file) }
        #expect(try #require(other).description == "cannot use \(file): it is not a directory")
    }

    @Test func `a failed write changes nothing, on disk or in memory`() throws {
        let store = try open()
        let made = try store.create(rights: ["invoke:a"])
        let before = directory.text("credentials.json")
        // A directory where the temporary file should go: neither unlink(2) nor open(2) gets past it.
        mkdir(directory.file("credentials.json.new"), 0o700)
        #expect(throws: CredentialError.self) { try store.create(rights: ["invoke:b"]) }
        #expect(throws: CredentialError.self) { try store.revoke(made.credential.id) }
        #expect(directory.text("credentials.json") == before)
        #expect(store.list().count == 2)
        #expect(store.verify(made.secret) == .accepted(made.credential))
        rmdir(directory.file("credentials.json.new"))
        #expect(try store.revoke(made.credential.id))
    }

    @Test func `the command line reads a secret file`() throws {
        _ = try open()
        #expect(try CredentialStore.readSecret(from: directory.file("admin.credential")).text == adminSecret)
        let absent = directory.file("absent")
        let error = #expect(throws: CredentialError.self) { try CredentialStore.readSecret(from: absent) }
        #expect(try #require(error).description == "cannot read \(absent): No such file or directory")
    }
}

@Suite struct CredentialFileTests {
    let directory = TemporaryDirectory()
    private static let record =
        #"{"id":"a1","rights":["invoke:*"],"salt":"AAAAAAAAAAAAAAAAAAAAAA","#
        + #""digest":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#

    /// Why the store does not open with this text as its file; nil where it does.
    private func reason(_ text: String) throws -> String? {
        let path = directory.write("credentials.json", text)
        var failure: CredentialError?
        do throws(CredentialError) {
            _ = try CredentialStore.open(stateDirectory: directory.path)
        } catch {
            failure = error
        }
        let after = directory.text("credentials.json")
        #expect(after == text, "the file was changed")
        guard let failure else { return nil }
        guard case .damaged(let damaged, let reason) = failure, damaged == path else { throw failure }
        return reason
    }

    @Test func `a file in today's form is read`() throws {
        #expect(try reason(#"{"version":1,"credentials":[]}"#) == nil)
        #expect(try reason(#"{"version":1,"credentials":[\#(Self.record)]}"#) == nil)
        #expect(try CredentialStore.open(stateDirectory: directory.path).list().map(\.id).last == "a1")
    }

    @Test(arguments: [
        ("", "it is not JSON"), ("{", "it is not JSON"), ("\0\0\0\0", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("{}", "'version' is missing"), (#"{"version":1}"#, "'credentials' is missing"),
        (#"{"version":2,"credentials":[]}"#, "it has version 2, this relayd reads 1"),
        (#"{"version":1,"credentials":[{}]}"#, "'credentials.0.id' is missing"),
        (#"{"version":1,"credentials":[\#(record),\#(record)]}"#, "credential a1 is in it twice"),
        (
            #"{"version":1,"credentials":[\#(record.replacing("invoke", with: "eval"))]}"#,
            "credential a1: 'eval:*' is no right: use admin, listen:SERVER, connect:SERVER:PORTS or invoke:INSTRUCTION"
        ),
        (
            #"{"version":1,"credentials":[\#(record.replacing("AAAA\"", with: "\""))]}"#,
            "salt or digest of credential a1 is none"
        ),
        (#"{"version":1,"credentials":[\#(record.replacing("a1", with: "a.1"))]}"#, "an id in it is no id"),
    ])
    func `a damaged file stops the start and stays`(text: String, expected: String) throws {
        #expect(try reason(text) == expected)
    }

    @Test func `a file cut anywhere stops the start`() throws {
        let store = try CredentialStore.open(stateDirectory: directory.path)
        _ = try store.create(rights: ["admin"], app: "a", expires: 5, cidr: "::1", maxConnections: 2)
        let text = try #require(directory.text("credentials.json")).trimmed
        for count in 0..<text.utf8.count {
            #expect(try reason(String(text.utf8.prefix(count))!) != nil, "\(count) bytes")
        }
        #expect(try reason(text) == nil)
    }

    @Test func `a stale temporary file is no obstacle`() throws {
        directory.write("admin.credential.new", "half")
        directory.write("credentials.json.new", "half")
        let store = try CredentialStore.open(stateDirectory: directory.path)
        _ = try store.create(rights: ["admin"])
        #expect(directory.names == ["admin.credential", "credentials.json", "lock"])
    }
}

extension CredentialStore {
    /// `verify` with what most tests do not care about.
    fileprivate func verify(
        _ secret: String, app: String = "default", from remoteAddress: String = "127.0.0.1", now: Int64 = 0
    ) -> Verification {
        Array(secret.utf8).withUnsafeBytes { verify($0, app: app, remoteAddress: remoteAddress, now: now) }
    }
}

extension String {
    fileprivate var trimmed: String { String(drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed()) }
}
