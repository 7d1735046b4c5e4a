// swift-tools-version: 6.1
import PackageDescription

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    // Release builds leave out the run-time checks of the law of exclusivity, which the debug builds of the tests make:
    // they cost 6 % of a scripted message.
    .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
]

let package = Package(
    name: "relayd",
    products: [
        .executable(name: "relayd", targets: ["relayd"]),
        .library(name: "RelayClient", targets: ["RelayClient"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // System libraries. Their headers add `static inline` faces for what the importer cannot see (macros, variadics).
        .systemLibrary(name: "CLinux"),
        .systemLibrary(name: "CCurl", pkgConfig: "libcurl", providers: [.apt(["libcurl4-openssl-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CLua", pkgConfig: "lua5.4-cjson", providers: [.apt(["liblua5.4-dev", "lua-cjson-dev"])]),

        // io_uring through liburing, behind a header that Swift's Glibc module agrees with.
        .target(name: "CUring", linkerSettings: [.linkedLibrary("uring")]),

        // Every Lua call that can raise, under lua_pcall; the sandboxed standard library.
        .target(name: "CLuaShims", dependencies: ["CLua"]),

        // What is served over plain HTTP, embedded: the JavaScript client and its example pages.
        .target(name: "CStaticFiles"),

        // The core: event loops, TLS, HTTP, WebSocket, servers, instructions. It has never heard of Lua.
        .target(
            name: "Relay",
            dependencies: ["CLinux", "COpenSSL", "CUring", .product(name: "Logging", package: "swift-log")],
            swiftSettings: settings),

        // The Lua engine behind Relay's InstructionEngine protocol.
        .target(name: "Scripting", dependencies: ["CLuaShims", "Relay"], swiftSettings: settings),

        // libcurl behind Relay's OutboundHTTP protocol.
        .target(name: "Outbound", dependencies: ["CCurl", "Relay"], swiftSettings: settings),

        // What speaks to a relay: the client library, and the tunnels of the command line.
        .target(name: "RelayClient", dependencies: ["Relay", "CLinux"], swiftSettings: settings),

        // The command line and the daemon.
        .executableTarget(
            name: "relayd",
            dependencies: [
                "Outbound", "Relay", "RelayClient", "Scripting", "CLinux", "CStaticFiles",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Yams", package: "Yams"),
            ],
            swiftSettings: settings),

        .testTarget(
            name: "RelayTests", dependencies: ["Relay", .product(name: "Logging", package: "swift-log")],
            swiftSettings: settings),
        .testTarget(
            name: "ScriptingTests", dependencies: ["Scripting", "CLuaShims", "Relay"], resources: [.copy("Resources")],
            swiftSettings: settings),
        .testTarget(
            name: "RelayClientTests", dependencies: ["RelayClient", "Relay", "relayd"], swiftSettings: settings),
        .testTarget(
            name: "relaydTests",
            dependencies: ["relayd", "Relay", "RelayClient", .product(name: "Logging", package: "swift-log")],
            swiftSettings: settings),
        // The part of the house style that a machine can check.
        .testTarget(name: "TidyTests", swiftSettings: settings),
    ],
    swiftLanguageModes: [.v6]
)
