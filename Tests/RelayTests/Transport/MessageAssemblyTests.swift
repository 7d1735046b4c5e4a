import Testing

@testable import Relay

@Suite struct MessageAssemblyTests {
    private func append(_ bytes: [UInt8], to assembly: inout MessageAssembly) {
        bytes.withUnsafeBytes { assembly.append($0) }
    }

    private func bytes(of assembly: borrowing MessageAssembly) -> [UInt8] { Array(assembly.bytes) }

    @Test func `a new assembly holds nothing`() {
        let assembly = MessageAssembly()
        let count = assembly.count
        #expect(count == 0)
        #expect(bytes(of: assembly) == [])
    }

    @Test(arguments: [1, 2, 7, 1023, 1024, 1025, 4096])
    func `pieces come out as one message, in order`(pieceBytes: Int) {
        let message = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        var assembly = MessageAssembly()
        for start in stride(from: 0, to: message.count, by: pieceBytes) {
            append(Array(message[start..<min(start + pieceBytes, message.count)]), to: &assembly)
        }
        let count = assembly.count
        #expect(count == message.count)
        #expect(bytes(of: assembly) == message)
    }

    @Test func `a piece larger than twice what is there fits`() {
        var assembly = MessageAssembly()
        append([1], to: &assembly)
        append([UInt8](repeating: 2, count: 1 << 20), to: &assembly)
        #expect(bytes(of: assembly) == [1] + [UInt8](repeating: 2, count: 1 << 20))
    }

    @Test func `empty pieces change nothing, wherever they come`() {
        var assembly = MessageAssembly()
        append([], to: &assembly)
        assembly.append(UnsafeRawBufferPointer(start: nil, count: 0))
        append([7, 8], to: &assembly)
        append([], to: &assembly)
        #expect(bytes(of: assembly) == [7, 8])
    }

    @Test func `after a message it holds no memory and takes the next one`() {
        var assembly = MessageAssembly()
        append([1, 2, 3], to: &assembly)
        assembly.removeAll()
        let base = assembly.bytes.baseAddress
        #expect(base == nil)
        #expect(bytes(of: assembly) == [])
        append([4], to: &assembly)
        #expect(bytes(of: assembly) == [4])
        assembly.removeAll()
        assembly.removeAll()
        let count = assembly.count
        #expect(count == 0)
    }
}
