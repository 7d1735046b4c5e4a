import ArgumentParser
import Glibc
import RelayClient

// Runs the command and turns its outcome into DESIGN §10's exit codes and one sentence on standard error.
openStandardDescriptors()
do {
    var command = try RelaydCommand.parseAsRoot()
    try command.run()
} catch let failure as ClientFailure {
    writeError(failure.description)
    exit(failure.kind.rawValue)
} catch {
    let code = RelaydCommand.exitCode(for: error)
    guard code == .validationFailure else { RelaydCommand.exit(withError: error) }
    // sysexits.h's 64 is what the library would exit with.
    writeError(usageSentence(RelaydCommand.message(for: error)) + " `relayd help` says more.")
    exit(2)
}
