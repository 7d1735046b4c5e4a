internal import Synchronization

// What the relay's own instructions take and return, as DESIGN §6 names it on the wire.

struct AddInstructionParameters: Decodable {
    var instructionToAdd: String
    /// A function expression.
    var body: String
    var `public`: Bool?
}

struct InstructionParameters: Decodable {
    var instruction: String
}

struct EvalParameters: Decodable {
    var body: String
}

struct LoadScriptParameters: Decodable {
    var name: String
    var source: String
    var dryRun: Bool?
    var ifGeneration: Int?
}

struct NameParameters: Decodable {
    var name: String
}

struct RequireParameters: Decodable {
    var module: String
    var source: String
}

struct CloseParameters: Decodable {
    var connection: UInt64
    var code: UInt16?
    var reason: String?
}

struct AppParameters: Decodable {
    var app: String
}

struct CreateCredentialParameters: Decodable {
    var rights: [String]
    var app: String?
    /// Seconds since 1970.
    var expires: Int64?
    var cidr: String?
    var maxConnections: Int?
}

struct RevokeCredentialParameters: Decodable {
    var id: String
}

struct AddedInstruction: Encodable {
    var instruction: String
    var version: Int
    var generation: Int
}

struct GenerationResult: Encodable {
    var generation: Int
}

struct LoadedScript: Encodable {
    var generation: Int
    var instructions: [String]
}

struct ModuleDescription: Encodable {
    var module: String
    var version: Int
}

struct AppResult: Encodable {
    var app: String
}

struct AppDescription: Encodable {
    var app: String
    /// The loop that is its home.
    var loop: Int
}

struct CreatedCredential: Encodable {
    var id: String
    /// The secret: shown here and never again.
    var credential: String
}

struct InstructionDescription: Encodable {
    var instruction: String
    var version: Int
    var `public`: Bool
    var summary: String
    var script: String?
    var generation: Int

    init(_ instruction: Instruction) {
        self.instruction = instruction.name
        version = instruction.version
        `public` = instruction.isPublic
        summary = instruction.summary
        script = instruction.script
        generation = instruction.generation
    }
}

struct ServerDescription: Encodable {
    var server: ServerID
    var connection: UInt64
    var remoteAddress: String?
    /// Which it offers, as in `22,80-90`; `*` is all.
    var ports: String
    /// Of a server of another relay: of the way there, and its relays, the nearest first.
    var cost: Int?
    var path: [String]?
}

struct LinkDescription: Encodable {
    /// Nil while there is none.
    var connection: UInt64?
    var remoteAddress: String?
    /// The neighbour.
    var relay: String?
    /// Where this relay has dialled it.
    var url: String?
    var cost: Int?
    /// To which it leads.
    var servers: Int
    /// Why there is none.
    var failure: String?
}

struct ChannelDescription: Encodable {
    var channel: UInt64
    /// The client's connection.
    var client: UInt64
    var remoteAddress: String
    var server: ServerID
    /// The server's connection.
    var connection: UInt64
    var port: UInt16
    var ageMilliseconds: UInt64
    var bytesToServer: Int
    var messagesToServer: Int
    var bytesToClient: Int
    var messagesToClient: Int

    init(_ record: ChannelRecord, now: UInt64) {
        channel = record.serial
        client = record.client.rawValue
        remoteAddress = record.remoteAddress
        server = record.server
        connection = record.serverConnection.rawValue
        port = record.port
        ageMilliseconds = now - min(now, record.openedAt)
        bytesToServer = record.toServer.bytes.load(ordering: .relaxed)
        messagesToServer = record.toServer.messages.load(ordering: .relaxed)
        bytesToClient = record.toClient.bytes.load(ordering: .relaxed)
        messagesToClient = record.toClient.messages.load(ordering: .relaxed)
    }
}

struct ConnectionDescription: Encodable {
    var connection: UInt64
    var remoteAddress: String
    var remotePort: Int
    var path: String
    var admin: Bool
    var subprotocol: String?
    var tls: String?
    /// The loop that it is on.
    var loop: Int
    /// Bytes that wait to be sent to it.
    var queuedBytes: Int
    /// It is not read because a receiver of its messages is full.
    var waiting: Bool
    /// Milliseconds since it last sent anything; not known of one whose channels are on another loop.
    var silentMilliseconds: UInt64?

    init(_ member: Member, now: UInt64) {
        let identity = member.identity
        connection = identity.id.rawValue
        remoteAddress = identity.address.host
        remotePort = Int(identity.address.port)
        path = identity.head?.path ?? "/"
        admin = identity.isAdmin
        subprotocol = identity.subprotocol?.name
        tls = identity.tls
        loop = member.loop
        queuedBytes = member.queuedBytes
        switch member {
        case .here(let connection):
            waiting = connection.waitsFor > 0
            silentMilliseconds = now - min(now, connection.deadlines.lastReceived)
        case .away(let connection):
            waiting = connection.waitsFor > 0
        }
    }
}

extension ServerID: Encodable {
    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .name(let name): try container.encode(name)
        case .number(let number): try container.encode(number)
        }
    }
}
