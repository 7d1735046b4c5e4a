/// Names to values, looked up by the bytes of a frame, without a String. Open addressing with linear probing; built
/// once per instruction set and then only read. The names come from operators, so the hash need not resist attack: a
/// lookup of hostile bytes costs one pass over them and a probe or two.
package struct NameTable<Value: Sendable>: Sendable {
    private struct Entry: Sendable {
        let hash: UInt64
        let name: [UInt8]
        let value: Value
    }

    private var entries: [Entry] = []
    /// Positions in `entries` plus one; 0 is empty. Its count is a power of two, at least twice that of the entries.
    private var slots: [Int32]

    package init(_ pairs: [(name: String, value: Value)]) {
        var capacity = 8
        while capacity < pairs.count * 2 { capacity *= 2 }
        slots = Array(repeating: 0, count: capacity)
        entries.reserveCapacity(pairs.count)
        for pair in pairs {
            let name = Array(pair.name.utf8)
            let hash = name.withUnsafeBytes { Self.hash($0) }
            var slot = Int(truncatingIfNeeded: hash) & (capacity - 1)
            while slots[slot] != 0 { slot = (slot + 1) & (capacity - 1) }
            entries.append(Entry(hash: hash, name: name, value: pair.value))
            slots[slot] = Int32(entries.count)
        }
    }

    package subscript(_ name: UnsafeRawBufferPointer) -> Value? {
        let hash = Self.hash(name)
        var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[slot] != 0 {
            let position = Int(slots[slot]) - 1
            if entries[position].hash == hash, entries[position].name.withUnsafeBytes({ Self.equal($0, name) }) {
                return entries[position].value
            }
            slot = (slot + 1) & (slots.count - 1)
        }
        return nil
    }

    package subscript(_ name: String) -> Value? {
        var name = name
        return name.withUTF8 { self[UnsafeRawBufferPointer($0)] }
    }

    /// A plain loop: `elementsEqual` takes 30 instructions a byte.
    private static func equal(_ a: UnsafeRawBufferPointer, _ b: UnsafeRawBufferPointer) -> Bool {
        guard a.count == b.count else { return false }
        for index in 0..<a.count where a[index] != b[index] { return false }
        return true
    }

    /// FNV-1a, 64 bit.
    private static func hash(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return hash
    }
}
