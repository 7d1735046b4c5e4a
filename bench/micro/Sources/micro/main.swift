// micro TUNNEL                   times every benchmark, in rounds, and prints a JSON object of each
// micro TUNNEL NAME ITERATIONS   does what the benchmark does so often, for who counts instructions
// TUNNEL is scripts/tunnel.lua.

internal import Relay
internal import Scripting

let arguments = CommandLine.arguments
guard arguments.count == 2 || arguments.count == 4 else {
    preconditionFailure("usage: micro TUNNEL [NAME ITERATIONS]")
}
let benchmarks = try Benchmark.all(tunnel: try ScriptFile(path: arguments[1])) { host, budgets throws(ScriptFailure) in
    try LuaEngine(host: host, budgets: budgets)
}

if arguments.count == 4 {
    guard let benchmark = benchmarks.first(where: { $0.name == arguments[2] }), let iterations = Int(arguments[3])
    else { preconditionFailure("no benchmark '\(arguments[2])', or no number of iterations") }
    benchmark.run(iterations)
} else {
    var rounds: [[Double]] = []
    // The first round warms caches and branch predictors up.
    for _ in 0...15 { rounds.append(benchmarks.map { $0.measure() }) }
    for (index, benchmark) in benchmarks.enumerated() {
        let nanoseconds = rounds.dropFirst().map { $0[index] }
        print(#"{"name":"\#(benchmark.name)","iterations":\#(benchmark.iterations),"nanoseconds":\#(nanoseconds)}"#)
    }
}
