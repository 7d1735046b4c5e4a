// Small messages in a row where a link is at one of the ends, or at both, that this relay has dialled.
extension ChannelEnd {
    /// As `moveSmallMessages` does where neither is: one loop for each pair of kinds. What comes out of such a link is
    /// not masked, and what goes into it has to be.
    @inline(never)
    func moveOverLink(
        _ bytes: UnsafeMutableRawBufferPointer, _ offset: inout Int, to target: ChannelEnd,
        into room: UnsafeMutableRawBufferPointer, _ written: inout Int
    ) -> WebSocketReader.Moved {
        let output = target.connection
        let source = connection.wireNumber(number).rawValue
        let sink = output.wireNumber(target.number).rawValue
        let credit = credit
        return withUnsafeMutablePointer(to: &output.loop.maskingKeys) { keys in
            switch (isClean, connection.isDialled, target.isClean, output.isDialled) {
            case (true, _, _, true):
                connection.reader.moveSmallMessages(
                    bytes, &offset, from: nil, into: room, &written, as: sink, credit: credit, masking: keys)
            case (_, true, true, _):
                connection.reader.moveSmallMessages(
                    bytes, &offset, from: source, into: room, &written, as: nil, credit: credit, isMasked: false)
            case (_, false, _, _):
                connection.reader.moveSmallMessages(
                    bytes, &offset, from: source, into: room, &written, as: sink, credit: credit, masking: keys)
            case (_, true, _, false):
                connection.reader.moveSmallMessages(
                    bytes, &offset, from: source, into: room, &written, as: sink, credit: credit, isMasked: false)
            case (_, true, _, true):
                connection.reader.moveSmallMessages(
                    bytes, &offset, from: source, into: room, &written, as: sink, credit: credit, isMasked: false,
                    masking: keys)
            }
        }
    }
}
