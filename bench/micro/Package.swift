// swift-tools-version: 6.1
import PackageDescription

// Micro-benchmarks of what relayd does for every message. The targets are relayd's own, through the symbolic link
// `relayd`, and built as the root's Package.swift builds them.

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
]

let package = Package(
    name: "micro",
    dependencies: [.package(url: "https://github.com/apple/swift-log", from: "1.16.2")],
    targets: [
        .systemLibrary(name: "CLinux", path: "relayd/CLinux"),
        .systemLibrary(name: "COpenSSL", path: "relayd/COpenSSL", pkgConfig: "openssl"),
        .systemLibrary(name: "CLua", path: "relayd/CLua", pkgConfig: "lua5.4-cjson"),
        .target(name: "CUring", path: "relayd/CUring", linkerSettings: [.linkedLibrary("uring")]),
        .target(name: "CLuaShims", dependencies: ["CLua"], path: "relayd/CLuaShims"),

        .systemLibrary(name: "CBarrier"),
        // The benchmarks are part of the module that they measure: they reach what is internal, and what is
        // always inlined into the relay is inlined into their loops.
        .target(
            name: "Relay",
            dependencies: [
                "CBarrier", "CLinux", "COpenSSL", "CUring", .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: settings),
        .target(
            name: "Scripting", dependencies: ["CLuaShims", "Relay"], path: "relayd/Scripting", swiftSettings: settings),
        .executableTarget(name: "micro", dependencies: ["Relay", "Scripting"], swiftSettings: settings),
    ],
    swiftLanguageModes: [.v6]
)
