internal import Logging

// What connections send: which of it is an instruction, who may invoke it, and what answers it.
extension App {
    /// A whole message. `bytes` are lent for the duration of the call.
    func received(_ bytes: UnsafeRawBufferPointer, isText: Bool, from connection: Member) {
        guard !links.contains(connection.id) else { return linkReceived(bytes, connection) }
        caller = connection
        defer {
            caller = nil
            holdBack(connection)
        }
        guard isText, uninstructed.isEmpty || !uninstructed.contains(connection.id) else {
            return receivedOther(bytes, isText: isText, connection, "This connection takes no instructions")
        }
        switch Envelope.parse(bytes) {
        case .instruction(let envelope):
            dispatch(envelope, bytes, connection)
        case .notInstruction:
            receivedOther(bytes, isText: true, connection, "The message is no instruction")
        case .malformed(let malformed):
            let id = malformed.id.map { UnsafeRawBufferPointer(rebasing: bytes[$0]) }
            receivedOther(bytes, isText: true, connection, "\(malformed)", id: id)
        }
    }

    /// A connection whose own answers pile up is read no further until it has taken them.
    private func holdBack(_ connection: Member) {
        guard connection.queuedBytes > loop.limits.outboundHighBytes else { return }
        connection.flush()
        if connection.queuedBytes > loop.limits.outboundHighBytes { connection.wait(for: connection) }
    }

    /// A message that is no instruction goes to the scripts; where none wants messages, its sender is told.
    private func receivedOther(
        _ bytes: UnsafeRawBufferPointer, isText: Bool, _ connection: Member, _ reason: String,
        id: UnsafeRawBufferPointer? = nil
    ) {
        if let chain = set.messageChain {
            let arguments = CallArguments.message(connection: connection.id, bytes: bytes, isText: isText)
            return call(chain, .fixed("message hook"), arguments, .hook(connection.id))
        }
        guard isText else {
            return connection.close(.unsupportedData, reason: "no script here takes binary messages")
        }
        livecode(connection) { Livecode.rejectedMalformed(String(decoding: bytes, as: UTF8.self)) }
        let error = InstructionError(
            .malformed, "\(reason): send {\"instruction\": NAME, \"parameters\": [...], \"id\": ANY}.")
        answer(connection, id: id, .failure(error))
    }

    /// The longest id of a request, as JSON text: it is kept as long as the call, and sent back.
    private static let maximumIDBytes = 1_024

    private func dispatch(_ envelope: Envelope, _ bytes: UnsafeRawBufferPointer, _ connection: Member) {
        envelope.instruction.withDecoded(in: bytes) { name in
            let id = envelope.id.map { UnsafeRawBufferPointer(rebasing: bytes[$0]) }
            livecode(connection) { Livecode.received(String(decoding: name, as: UTF8.self)) }
            guard (id?.count ?? 0) <= Self.maximumIDBytes else {
                let error = InstructionError(.limit, "The id is longer than \(Self.maximumIDBytes) bytes.")
                return answer(connection, id: nil, .failure(error))
            }
            do throws(InstructionError) {
                let rights = try rights(of: connection, envelope.credential, bytes, name)
                let parameters = try parameters(envelope, bytes)
                switch set.entry(name) {
                case .instruction(let instruction):
                    guard instruction.isPublic || rights.mayInvoke(instruction.name) else {
                        throw InstructionError(
                            .forbidden, "'\(instruction.name)' is not public: it needs a credential that may invoke it."
                        )
                    }
                    livecode(connection) { Livecode.evaluating(instruction.name) }
                    invoke(instruction, parameters, connection, id)
                case .builtIn(let builtIn):
                    guard rights.isAdmin else {
                        throw InstructionError(.forbidden, "'\(builtIn.rawValue)' needs an admin credential.")
                    }
                    run(builtIn, parameters, connection, id, rights)
                case nil:
                    throw InstructionError(
                        .unknownInstruction, "There is no instruction '\(String(decoding: name, as: UTF8.self))' here.")
                }
            } catch {
                livecode(connection) { Livecode.rejected(String(decoding: name, as: UTF8.self)) }
                if let id { answer(connection, id: id, .failure(error)) }
            }
        }
    }

    private func parameters(
        _ envelope: Envelope, _ bytes: UnsafeRawBufferPointer
    ) throws(InstructionError) -> UnsafeRawBufferPointer? {
        guard let range = envelope.parameters else { return nil }
        let text = UnsafeRawBufferPointer(rebasing: bytes[range])
        guard text.first == UInt8(ascii: "[") || text.first == UInt8(ascii: "{") else {
            throw InstructionError(.badParameters, "\"parameters\" must be an array or an object.")
        }
        return text
    }

    // MARK: Rights

    /// What the sender of one message may do beyond what everybody may.
    struct Rights {
        var isAdmin: Bool
        /// Admin of the whole relay, not of this app alone.
        var isRelayAdmin: Bool
        var credential: Credential?

        func mayInvoke(_ instruction: String) -> Bool {
            isAdmin || credential?.allows(invoke: instruction) == true
        }
    }

    /// A message's own credential decides where it has one, else the one that its connection presented.
    private func rights(
        of connection: Member, _ presented: JSONStringSlice?, _ bytes: UnsafeRawBufferPointer,
        _ name: UnsafeRawBufferPointer
    ) throws(InstructionError) -> Rights {
        guard let presented else {
            let credential = connection.credential
            return Rights(
                isAdmin: connection.isAdmin, isRelayAdmin: connection.isAdmin && credential?.app == nil,
                credential: credential)
        }
        let verification = presented.withDecoded(in: bytes) { secret in
            shared.credentials.verify(
                secret, app: self.name, remoteAddress: connection.address.host,
                now: Int64(System.wallClockSeconds()))
        }
        switch verification {
        case .accepted(let credential):
            return Rights(
                isAdmin: credential.isAdmin, isRelayAdmin: credential.isAdmin && credential.app == nil,
                credential: credential)
        case .refused(let reason):
            shared.logUnauthorized(
                "\(reason)", connection.address, instruction: String(decoding: name, as: UTF8.self))
            throw InstructionError(.unauthorized, "The credential is not valid here.")
        }
    }

    // MARK: node-livecode's lines

    func livecode(_ connection: Member, _ line: () -> String) {
        guard connection.isLivecode else { return }
        var text = line()
        text.withUTF8 { _ = connection.sendMessage(UnsafeRawBufferPointer($0), isText: true) }
    }
}
