import Testing

@testable import Relay

@Suite struct `Routes` {
    @Test func `every path of the contract leads where it says`() {
        #expect(Route.parse("/") == .instruction(app: "default"))
        #expect(Route.parse("/app/my_app-1") == .instruction(app: "my_app-1"))
        #expect(Route.parse("/c/box/80") == .cleanClient(app: "default", server: .name("box"), port: 80))
        #expect(Route.parse("/app/x/c/0/65535") == .cleanClient(app: "x", server: .number(0), port: 65535))
        #expect(Route.parse("/s/box") == .serverRegistration(app: "default", server: .name("box")))
        #expect(Route.parse("/app/x/s/a%20b%C3%A9") == .serverRegistration(app: "x", server: .name("a bé")))
        #expect(Route.parse("/a/t1") == .dedicated(app: "default", ticket: "t1"))
        #expect(
            Route.parse("/healthz") == .health && Route.parse("/readyz") == .ready
                && Route.parse("/metrics") == .metrics)
        #expect(Route.parse("/relay.js") == .file(path: "/relay.js"))
        #expect(Route.parse("/examples") == .file(path: "/examples"))
        #expect(Route.parse("/examples/") == .file(path: "/examples/"))
        #expect(Route.parse("/examples/a%20b/c") == .file(path: "/examples/a b/c"))
    }

    @Test func `a server id of digits is a number only as a number is written`() {
        #expect(Route.parse("/s/42") == .serverRegistration(app: "default", server: .number(42)))
        #expect(Route.parse("/s/042") == .serverRegistration(app: "default", server: .name("042")))
        #expect(
            Route.parse("/s/99999999999999999999")
                == .serverRegistration(app: "default", server: .name("99999999999999999999")))
    }

    @Test(arguments: [
        "/x", "//", "/c/box", "/c/box/", "/c/box/65536", "/c/box/-1", "/c/box/+1", "/c/box/080", "/c//80",
        "/c/box/80/x", "/s", "/s/", "/healthz/", "/APP/x", "/relay.js/", "/relay.js/x",
    ])
    func `other paths are the scripts' of the default app`(_ path: String) {
        #expect(Route.parse(path) == .other(app: "default"))
        #expect(Route.pathInApp(path) == path)
    }

    @Test(arguments: ["/app", "/app/", "/app/a.b", "/app/\(String(repeating: "x", count: 65))", "/app//x"])
    func `a path whose app has no name leads nowhere`(_ path: String) {
        #expect(Route.parse(path) == .notFound && Route.parse(path).app == nil)
    }

    @Test(arguments: [
        ("/app/x/", "/"), ("/app/x/healthz", "/healthz"), ("/app/x/relay.js", "/relay.js"),
        ("/app/x/examples", "/examples"), ("/app/x/a%20b/%C3%A9/", "/a b/é/"), ("/app/x//", "//"),
        ("/app/x/app/y", "/app/y"),
    ])
    func `a path within an app is decoded, without the app`(path: String, inApp: String) {
        #expect(Route.parse(path) == .other(app: "x") && Route.parse(path).app == "x")
        #expect(Route.pathInApp(path) == inApp)
    }

    @Test func `the paths of WebSockets are an app's as well, the relay's own are not`() {
        for path in ["/app/x", "/app/x/c/box/1", "/app/x/s/box", "/app/x/a/1"] { #expect(Route.parse(path).app == "x") }
        #expect(Route.pathInApp("/") == "/" && Route.pathInApp("/app/x") == "/")
        for path in ["/healthz", "/readyz", "/metrics", "/relay.js", "/examples/x"] {
            #expect(Route.parse(path).app == nil)
        }
    }

    @Test(arguments: [
        "", "x", "/s/a%0d%0ab", "/s/%00", "/s/a%2Fb", "/s/a%2fb", "/s/..", "/s/%2e%2e", "/./s/x", "/s/.", "/s/%",
        "/s/%4", "/s/%zz",
        "/s/%C0%AF", "/s/%ED%A0%80", "/s/%FF", "/s/%7F", "/../etc/passwd", "/examples/../x", "/examples/%2e%2e/x",
        "/examples/%2Fx",
    ])
    func `case 40: escapes that hide controls, slashes or climbing are refused`(_ path: String) {
        #expect(Route.parse(path) == .badRequest)
    }

    @Test func `below a base path everything is as at the root, and elsewhere is nothing`() {
        for base in ["/relay", "/a/b"] {
            #expect(Route.parse(base, below: base) == .instruction(app: "default"))
            #expect(Route.parse(base + "/", below: base) == .instruction(app: "default"))
            #expect(Route.parse(base + "/app/x/c/box/80", below: base) == Route.parse("/app/x/c/box/80"))
            #expect(Route.parse(base + "/readyz", below: base) == .ready)
            #expect(Route.parse(base + "/s/..", below: base) == .badRequest)
            #expect(Route.parse(base + "//", below: base) == Route.parse("//"))
            for path in ["/", "/readyz", base + "x", base.uppercased(), "/x" + base, base + "/../readyz"] {
                #expect([.notFound, .badRequest].contains(Route.parse(path, below: base)), "\(path)")
            }
        }
    }

    @Test func `a query item is decoded, the first of its name`() {
        #expect(Query.value(of: "auth", in: "x=1&auth=a%2Bb+c%C3%A9&auth=no") == "a+b+cé")
        #expect(Query.value(of: "auth", in: "%61uth=1") == "1")
        #expect(Query.value(of: "auth", in: "auth") == "" && Query.value(of: "auth", in: "auth=") == "")
        #expect(Query.value(of: "auth", in: "auth=a=b") == "a=b")
        #expect(Query.value(of: "auth", in: "author=1&xauth=2") == nil && Query.value(of: "auth", in: "") == nil)
    }

    @Test(arguments: ["auth=%", "auth=%1", "auth=%g0", "auth=%FF", "auth=%00", "auth=a%0Ab"])
    func `a query item that cannot be decoded is none`(_ query: String) {
        #expect(Query.value(of: "auth", in: query) == nil)
    }
}
