/// The stable error codes of instruction replies (DESIGN §6). The one table of them: replies, the command line and
/// `relayd explain` read it.
package enum ErrorCode: String, CaseIterable, Sendable {
    case malformed
    case unauthorized
    case forbidden
    case unknownInstruction = "unknown_instruction"
    case badParameters = "bad_parameters"
    case compileError = "compile_error"
    case scriptError = "script_error"
    case budgetExceeded = "budget_exceeded"
    case memoryExceeded = "memory_exceeded"
    case outputExceeded = "output_exceeded"
    case notFound = "not_found"
    case conflict
    case limit
    case unavailable
    case timeout
    case `internal`

    /// What it means and what to do about it, for `relayd explain`.
    package var explanation: String {
        switch self {
        case .malformed:
            "The message is not a JSON object with a string under \"instruction\". Send "
                + "{\"instruction\": NAME, \"parameters\": [...], \"id\": ANY} as one text frame."
        case .unauthorized:
            "A credential was presented that the relay does not know, or that is revoked, expired or not for this app "
                + "or address. Check the file that the relay named at its first start (STATE/admin.credential)."
        case .forbidden:
            "The credential is known, or none was given, but it does not allow this. Instructions that are not public "
                + "and all built-in ones need an admin credential or an invoke right for their name."
        case .unknownInstruction:
            "No instruction of this name is in the app's set. `relayd list instructions` shows what there is."
        case .badParameters:
            "The parameters do not have the form that the instruction takes: an array is passed by position, an object "
                + "as one table."
        case .compileError:
            "The Lua text does not compile. The message has file and line; the generation that served goes on serving."
        case .scriptError:
            "The Lua function raised an error. The message has file and line, `data.traceback` the way there."
        case .budgetExceeded:
            "The Lua function ran longer without yielding than `burst` allows, or longer in all than `callTime`; or a "
                + "single call asked for more work than a burst can hold. Do less per call, or yield with relay.sleep."
        case .memoryExceeded:
            "The app's Lua state has reached `scriptMemory`. Keep less, or raise --limit scriptMemory=."
        case .outputExceeded:
            "One call sent more than `outputBytesPerCall`. Send less per call, or raise the limit."
        case .notFound:
            "What the request names (a connection, server, script, app or credential) does not exist, or no longer."
        case .conflict:
            "The name is taken by something else, or the set has changed since the generation that the request gave."
        case .limit:
            "A limit of the relay stopped this; the message names it. `relayd serve --print-config` shows all limits."
        case .unavailable:
            "The relay cannot do this now, because it is draining or lacks a resource. Try again later."
        case .timeout:
            "What the request waited for did not come in time."
        case .internal:
            "The relay failed at something that is not the request's fault. Its log says more; please report it."
        }
    }
}
