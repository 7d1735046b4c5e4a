// A relay of channels (docs/relay.v1.md) as far as the load generator goes: servers, clean and multiplexed clients,
// data and credit. Plain Node and `ws`; everybody may be and reach everything.
//
//   node-channel.mjs [--port N] [--forward FUNCTION]
//
// --forward FUNCTION   what hands a piece of a message on, as JavaScript; a faulty one shows whether the load generator
//                      notices.
//
// When it listens it prints `listening ws://127.0.0.1:PORT` on standard output.

import { writeSync } from 'node:fs'
import { createServer } from 'node:http'
import { parseArgs } from 'node:util'
import { library as WebSocketLibrary } from './websocket-library.mjs'

const { values: options } = parseArgs({
    options: {
        port: { type: 'string', default: '0' },
        forward: { type: 'string', default: '(end, bytes, type) => end.deliver(bytes, type)' },
    },
})
const forward = (0, eval)(options.forward)
const MORE = 0x80, OPEN = 0x10, ACCEPT = 0x11, CREDIT = 0x13, WINDOW = 256 << 10
const servers = new Map()

function uint32(value) {
    const bytes = Buffer.allocUnsafe(4)
    bytes.writeUInt32BE(value)
    return bytes
}

// What each kind of end does with what comes from the `other` one: `deliver` a piece, take `credit`, be `accepted`.

class MultiplexedEnd {
    constructor(connection, number) {
        this.connection = connection
        this.number = number
        connection.ends.set(number, this)
    }
    deliver(bytes, type) { this.connection.write(type, this.number, bytes) }
    credit(count) { this.connection.write(CREDIT, this.number, uint32(count)) }
    accepted(count) { this.connection.write(ACCEPT, this.number, uint32(count)) }
    read(type, payload) {
        if (type === ACCEPT) this.other.accepted(payload.readUInt32BE())
        else if (type === CREDIT) this.other.credit(payload.readUInt32BE())
        else if ((type & ~MORE) <= 1) forward(this.other, payload, type)
    }
}

class CleanEnd {
    left = 0 // Bytes that may be sent.
    taken = 0 // Bytes that were delivered and not granted anew.
    waiting = [] // Messages that have no credit.
    constructor(letIn) { this.letIn = letIn }
    deliver(bytes, type) {
        this.socket.send(bytes, { binary: (type & 1) === 0, fin: (type & MORE) === 0 })
        this.taken += bytes.length
        if (this.taken < WINDOW / 2) return
        this.other.credit(this.taken)
        this.taken = 0
    }
    credit(count) {
        this.left += count
        this.pump()
    }
    accepted(count) {
        this.left = count
        this.letIn((socket) => {
            this.socket = socket
            socket.on('message', (data, isBinary) => {
                this.waiting.push([data, isBinary ? 0 : 1])
                this.pump()
            })
        })
    }
    pump() {
        while (this.waiting.length > 0 && this.left > 0) {
            const [data, type] = this.waiting[0]
            const piece = data.subarray(0, this.left)
            this.left -= piece.length
            if (piece.length === data.length) this.waiting.shift()
            else this.waiting[0] = [data.subarray(piece.length), type]
            forward(this.other, piece, piece.length === data.length ? type : type | MORE)
        }
        if (this.waiting.length > 0) this.socket.pause()
        else if (this.socket.isPaused) this.socket.resume()
    }
}

class Multiplexed {
    ends = new Map()
    lastNumber = 0
    constructor(socket) {
        this.socket = socket
        socket.on('message', (frame) => this.read(frame[0], frame.readUInt32BE(1), frame.subarray(5)))
    }
    write(type, number, payload) {
        const frame = Buffer.allocUnsafe(5 + payload.length)
        frame[0] = type
        frame.writeUInt32BE(number, 1)
        payload.copy(frame, 5)
        this.socket.send(frame)
    }
    read(type, number, payload) {
        if (type !== OPEN) return this.ends.get(number)?.read(type, payload)
        const { server, port, credit } = JSON.parse(payload)
        open(server, port, credit ?? WINDOW, new MultiplexedEnd(this, number))
    }
}

function open(name, port, credit, end) {
    const server = servers.get(name)
    server.lastNumber += 2
    end.other = new MultiplexedEnd(server, server.lastNumber)
    end.other.other = end
    const request = { server: name, port: Number(port), remoteAddress: '', metadata: null, credit, ticket: '' }
    server.write(OPEN, server.lastNumber, Buffer.from(JSON.stringify(request)))
}

const sockets = new WebSocketLibrary.Server({ noServer: true })
const relay = createServer().on('upgrade', (request, stream, head) => {
    const letIn = (then) => sockets.handleUpgrade(request, stream, head, (socket) => {
        socket.on('error', () => socket.terminate())
        then(socket)
    })
    const [, kind, name, port] = request.url.split('?')[0].split('/')
    if (kind === 'c') open(name, port, WINDOW, new CleanEnd(letIn))
    else if (kind === 's') letIn((socket) => servers.set(name, new Multiplexed(socket)))
    else letIn((socket) => new Multiplexed(socket))
})
relay.listen({ host: '127.0.0.1', port: Number(options.port), backlog: 4096 }, () => {
    writeSync(1, `listening ws://127.0.0.1:${relay.address().port}\n`)
})
process.on('SIGTERM', () => process.exit(0))
