/// First in, first out.
struct Queue<Element> {
    private var items: [Element?] = []
    private var first = 0

    var isEmpty: Bool { first == items.count }

    mutating func append(_ item: Element) { items.append(item) }

    mutating func popFirst() -> Element? {
        guard first < items.count else { return nil }
        defer {
            items[first] = nil
            first += 1
            // What was taken is dropped when it is half of all: each item moves at most once on average.
            if first * 2 >= items.count {
                items.removeFirst(first)
                first = 0
            }
        }
        return items[first]
    }
}
