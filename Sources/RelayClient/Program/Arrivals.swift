import Synchronization

/// What has come and waits for a task of the program. Shared by the loop's thread, which fills it, and one task that
/// takes from it.
final class Arrivals<Element: Sendable>: Sendable {
    private struct State {
        var elements = Queue<Element>()
        var waiting: CheckedContinuation<Element?, any Error>?
        /// Nothing more comes: an orderly end, or why not.
        var end: Result<Void, any Error>?
    }
    private let state = Mutex(State())

    func received(_ element: Element) {
        let waiting = state.withLock { state in
            let waiting = Self.takeWaiting(&state)
            if waiting == nil { state.elements.append(element) }
            return waiting
        }
        waiting?.resume(returning: element)
    }

    /// Nothing more comes; the first call counts.
    func finished(_ failure: (any Error)?) {
        let waiting = state.withLock { state in
            if state.end == nil { state.end = failure.map { .failure($0) } ?? .success(()) }
            return Self.takeWaiting(&state)
        }
        guard let waiting else { return }
        if let failure { waiting.resume(throwing: failure) } else { waiting.resume(returning: nil) }
    }

    /// The next element; nil after an orderly end, and where the task is cancelled.
    func next() async throws -> Element? {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let answer: Result<Element?, any Error>? = state.withLock { state in
                    if let element = state.elements.popFirst() { return .success(element) }
                    if let end = state.end { return end.map { nil } }
                    if Task.isCancelled { return .success(nil) }
                    precondition(state.waiting == nil, "two tasks iterate over one sequence at the same time")
                    state.waiting = continuation
                    return nil
                }
                if let answer { continuation.resume(with: answer) }
            }
        } onCancel: {
            state.withLock { Self.takeWaiting(&$0) }?.resume(returning: nil)
        }
    }

    private static func takeWaiting(_ state: inout State) -> CheckedContinuation<Element?, any Error>? {
        defer { state.waiting = nil }
        return state.waiting
    }
}
