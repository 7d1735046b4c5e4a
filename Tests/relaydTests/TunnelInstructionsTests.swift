import Testing

@testable import relayd

@Suite struct TunnelInstructionsTests {
    @Test(arguments: TunnelInstructions.all.map(\.name))
    func `the demo sends what scripts/tunnel holds`(_ name: String) throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let bytes = try readFile("/\(root)/scripts/tunnel/\(name).lua", maximumBytes: 1 << 20)
        let body = try #require(TunnelInstructions.all.first { $0.name == name }?.body)
        #expect(String(decoding: bytes, as: UTF8.self) == body + "\n")
    }

    @Test func `the version that the demo swaps in differs by its counter only`() {
        #expect(DemoTraffic.countingForwardToServer != TunnelInstructions.forwardToServer)
        #expect(
            DemoTraffic.countingForwardToServer.replacing(DemoTraffic.counter, with: "")
                == TunnelInstructions.forwardToServer)
    }
}
