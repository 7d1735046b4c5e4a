internal import CLinux
internal import Glibc

/// One operation of the relay's, done over and over.
package struct Benchmark {
    package let name: String
    /// How often in one run: about ten milliseconds' worth.
    package let iterations: Int
    /// Does the operation so often. The loop is in here, so that nothing is called between two operations.
    private let body: (Int) -> Void

    init(_ name: String, iterations: Int, _ body: @escaping (Int) -> Void) {
        self.name = name
        self.iterations = iterations
        self.body = body
    }

    /// Does the operation so often: for who counts instructions.
    package func run(_ iterations: Int) { body(iterations) }

    /// Nanoseconds of CPU that one operation took in one run.
    package func measure() -> Double {
        let start = Self.processorNanoseconds()
        run(iterations)
        return Double(Self.processorNanoseconds() - start) / Double(iterations)
    }

    private static func processorNanoseconds() -> Int {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return time.tv_sec * 1_000_000_000 + time.tv_nsec
    }
}
