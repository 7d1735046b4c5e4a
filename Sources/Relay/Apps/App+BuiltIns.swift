internal import FoundationEssentials
internal import Logging

// The relay's own instructions (DESIGN §6): parameters are decoded here, results encoded, and what they do is done by
// the parts that own it.
extension App {
    /// Carries out a built-in instruction; whoever sent it is an admin of this app.
    func run(
        _ builtIn: BuiltIn, _ parameters: UnsafeRawBufferPointer?, _ connection: Member,
        _ id: UnsafeRawBufferPointer?, _ rights: Rights
    ) {
        do throws(InstructionError) {
            switch builtIn {
            case .invoke:
                try runInvoke(parameters, connection, id)
            case .eval:
                let decoded = try decode(EvalParameters.self, parameters)
                evaluate(decoded.body, connection, id)
            default:
                let result = try result(of: builtIn, parameters, connection, rights)
                if let id { result.withUnsafeBytes { answer(connection, id: id, .success($0)) } }
            }
        } catch {
            livecode(connection) { Livecode.returned(error.message) }
            if let id { answer(connection, id: id, .failure(error)) }
        }
        settle()
    }

    /// `invoke`: its parameters have the form of a request themselves.
    private func runInvoke(
        _ parameters: UnsafeRawBufferPointer?, _ connection: Member, _ id: UnsafeRawBufferPointer?
    ) throws(InstructionError) {
        guard let parameters, case .instruction(let envelope) = Envelope.parse(parameters) else {
            throw InstructionError(.badParameters, "invoke takes {\"instruction\": NAME, \"parameters\": [...]}.")
        }
        let entry = envelope.instruction.withDecoded(in: parameters) { set.entry($0) }
        guard case .instruction(let instruction) = entry else {
            let name = String(decoding: envelope.instruction.decoded(in: parameters), as: UTF8.self)
            throw InstructionError(.unknownInstruction, "There is no instruction '\(name)' to invoke.")
        }
        let inner = envelope.parameters.map { UnsafeRawBufferPointer(rebasing: parameters[$0]) }
        invoke(instruction, inner, connection, id)
    }

    private func result(
        of builtIn: BuiltIn, _ parameters: UnsafeRawBufferPointer?, _ connection: Member, _ rights: Rights
    ) throws(InstructionError) -> [UInt8] {
        switch builtIn {
        case .addInstruction:
            let decoded = try decode(AddInstructionParameters.self, parameters)
            livecode(connection) { Livecode.adding(decoded.instructionToAdd) }
            let added = try add(
                instruction: decoded.instructionToAdd, body: decoded.body, isPublic: decoded.public ?? true)
            return try encode(
                AddedInstruction(instruction: added.name, version: added.version, generation: added.generation))
        case .removeInstruction:
            let name = try decode(InstructionParameters.self, parameters).instruction
            return try encode(GenerationResult(generation: try remove(instruction: name)))
        case .loadScript:
            let decoded = try decode(LoadScriptParameters.self, parameters)
            let loaded = try load(
                script: decoded.name, source: Array(decoded.source.utf8), isDryRun: decoded.dryRun ?? false,
                ifGeneration: decoded.ifGeneration)
            return try encode(LoadedScript(generation: loaded.generation, instructions: loaded.instructions))
        case .unloadScript:
            let name = try decode(NameParameters.self, parameters).name
            return try encode(GenerationResult(generation: try unload(script: name)))
        case .require:
            let decoded = try decode(RequireParameters.self, parameters)
            let version = try add(module: decoded.module, source: decoded.source)
            return try encode(ModuleDescription(module: decoded.module, version: version))
        case .modules, .instructions, .servers, .connections, .channels, .apps, .links:
            return try list(builtIn, rights)
        case .closeConnection:
            return try runClose(try decode(CloseParameters.self, parameters), rights)
        case .createApp, .removeApp:
            return try runApp(builtIn, try decode(AppParameters.self, parameters).app, rights)
        case .createCredential:
            return try runCreateCredential(try decode(CreateCredentialParameters.self, parameters), rights)
        case .revokeCredential:
            return try runRevokeCredential(try decode(RevokeCredentialParameters.self, parameters), rights)
        case .invoke, .eval:
            preconditionFailure("\(builtIn) answers by itself")
        }
    }

    private func list(_ kind: BuiltIn, _ rights: Rights) throws(InstructionError) -> [UInt8] {
        switch kind {
        case .modules:
            let modules = set.modules.sorted { $0.key < $1.key }
            return try encode(modules.map { ModuleDescription(module: $0.key.text, version: $0.value) })
        case .instructions:
            let instructions = set.instructions.values.sorted { $0.name < $1.name }
            return try encode(instructions.map(InstructionDescription.init))
        case .servers:
            return try encode(
                servers.all.map { entry in
                    ServerDescription(
                        server: entry.server, connection: entry.connection.rawValue,
                        remoteAddress: members[entry.connection]?.address.host,
                        ports: servers.ports(of: entry.server).description)
                } + remoteServers)
        case .connections:
            let open = members.values.filter(\.isOpen).sorted { $0.id.rawValue < $1.id.rawValue }
            return try encode(open.map { ConnectionDescription($0, now: loop.now) })
        case .apps:
            let visible = shared.apps.all.filter { rights.isRelayAdmin || $0.name == name }
            return try encode(visible.map { AppDescription(app: $0.name, loop: $0.loop) })
        case .links:
            return try encode(linkDescriptions)
        case .channels:
            return try encode(channels.all.map { ChannelDescription($0, now: loop.now) })
        default:
            preconditionFailure("\(kind) is no list")
        }
    }

    private func runClose(_ decoded: CloseParameters, _ rights: Rights) throws(InstructionError) -> [UInt8] {
        let id = ConnectionID(rawValue: decoded.connection)
        let code = CloseCode(rawValue: decoded.code ?? CloseCode.kicked.rawValue)
        guard code.isValidOnWire else {
            throw InstructionError(.badParameters, "\(code.rawValue) is no close code that can be sent.")
        }
        let reason = decoded.reason ?? "closed by an operator"
        guard reason.utf8.count <= 123 else {
            throw InstructionError(.badParameters, "A close reason has at most 123 bytes (RFC 6455 §5.5).")
        }
        if members[id] != nil {
            afterwards.append(.close(id, code, reason))
        } else if rights.isRelayAdmin, let home = shared.directory.loop(of: id) {
            shared.loops[home].mailbox.post(.close(id, code, reason: reason))
        } else {
            throw InstructionError(.notFound, "There is no connection \(id).")
        }
        return Array(#"{"closed":true}"#.utf8)
    }

    private func runApp(_ builtIn: BuiltIn, _ name: String, _ rights: Rights) throws(InstructionError) -> [UInt8] {
        guard rights.isRelayAdmin else {
            throw InstructionError(.forbidden, "Apps are made and removed with a credential for the whole relay.")
        }
        guard Route.isAppName(name) else {
            throw InstructionError(.badParameters, "An app's name has 1 to 64 of the characters A-Z a-z 0-9 _ -.")
        }
        if builtIn == .createApp {
            try createApp(name)
        } else {
            guard name != App.defaultName else {
                throw InstructionError(.forbidden, "The default app cannot be removed.")
            }
            guard let removed = shared.apps.remove(name) else {
                throw InstructionError(.notFound, "There is no app '\(name)'.")
            }
            shared.loops[removed.loop].mailbox.post(.removeApp(name, serial: removed.serial))
        }
        return try encode(AppResult(app: name))
    }

    private func createApp(_ name: String) throws(InstructionError) {
        guard let index = shared.apps.reserve(name, loopCount: shared.loops.count) else {
            throw InstructionError(.conflict, "There is an app '\(name)' already.")
        }
        let home = shared.loops[index]
        do {
            let app = try App.make(name: name, loop: home)
            let serial = app.serial
            home.mailbox.post(.addApp(AppTransfer(app)))
            shared.apps.publish(name, serial: serial)
        } catch {
            shared.apps.release(name)
            throw InstructionError(error)
        }
    }

    private func runCreateCredential(
        _ decoded: CreateCredentialParameters, _ rights: Rights
    ) throws(InstructionError) -> [UInt8] {
        guard rights.isRelayAdmin || decoded.app == name else {
            throw InstructionError(.forbidden, "A credential for one app can make credentials for that app only.")
        }
        // Nobody's credential outlives the one that made it.
        let expires = [decoded.expires, rights.credential?.expires].compactMap { $0 }.min()
        do {
            let created = try shared.credentials.create(
                rights: decoded.rights, app: decoded.app, expires: expires, cidr: decoded.cidr,
                maxConnections: decoded.maxConnections)
            return try encode(CreatedCredential(id: created.credential.id, credential: created.secret))
        } catch let error as InstructionError {
            throw error
        } catch {
            throw InstructionError(.badParameters, "\(error)")
        }
    }

    private func runRevokeCredential(
        _ decoded: RevokeCredentialParameters, _ rights: Rights
    ) throws(InstructionError) -> [UInt8] {
        let known = shared.credentials.list().first { $0.id == decoded.id }
        guard let known, rights.isRelayAdmin || known.app == name else {
            throw InstructionError(.notFound, "There is no credential '\(decoded.id)'.")
        }
        do { _ = try shared.credentials.revoke(known.id) } catch {
            throw InstructionError(.conflict, "\(error)")
        }
        shared.broadcast(.revoked(credential: known.id))
        return Array(#"{"revoked":true}"#.utf8)
    }

    // MARK: JSON

    private func encode<T: Encodable>(_ value: T) throws(InstructionError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
        do { return Array(try encoder.encode(value)) } catch {
            throw InstructionError(.internal, "The result cannot be written as JSON.")
        }
    }

    private func decode<T: Decodable>(
        _ type: T.Type, _ parameters: UnsafeRawBufferPointer?
    ) throws(InstructionError) -> T {
        let data = Data(parameters.map(Array.init) ?? Array("{}".utf8))
        do { return try JSONDecoder().decode(type, from: data) } catch {
            throw InstructionError(.badParameters, Self.describe(error))
        }
    }

    /// What is wrong with parameters, by the name of the field.
    private static func describe(_ error: any Error) -> String {
        switch error {
        case DecodingError.keyNotFound(let key, _):
            "The parameter \"\(key.stringValue)\" is missing."
        case DecodingError.typeMismatch(let type, let context), DecodingError.valueNotFound(let type, let context):
            context.codingPath.last.map { "The parameter \"\($0.stringValue)\" must be a \(type)." }
                ?? "The parameters must be one JSON object."
        default:
            "The parameters cannot be read."
        }
    }
}
