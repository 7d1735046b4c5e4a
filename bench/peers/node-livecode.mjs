// A relay that is livecoded in JavaScript, as node-livecode is: plain Node and `ws`, one object of functions, one JSON
// message per instruction. It starts with the six tunnel instructions and speaks what scripts/tunnel.lua speaks, so
// that one load generator can drive both.
//
//   node-livecode.mjs [--port N] [--credential SECRET] [--log-lines on|off] [--console PATH]
//
// --log-lines on   what node-livecode does: each message is commented on by lines to its sender and on the console.
// --log-lines off  the same relay without them: what a plain Node relay of this protocol costs.
// --console PATH   where console lines go instead of standard output (a benchmark sends them to /dev/null).
//
// When it listens it prints `listening ws://127.0.0.1:PORT` on standard output.

import { Console } from 'node:console'
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { openSync, writeSync } from 'node:fs'
import { Writable } from 'node:stream'
import { parseArgs } from 'node:util'
import { library as WebSocketLibrary, version } from './websocket-library.mjs'

const { values: options } = parseArgs({
    options: {
        port: { type: 'string', default: '0' },
        credential: { type: 'string', default: 'shared secret' },
        'log-lines': { type: 'string', default: 'on' },
        console: { type: 'string' },
        version: { type: 'boolean', default: false },
    },
})
if (options.version) {
    console.log(`Node ${process.version}, ws ${version}`)
    process.exit(0)
}

// What instruction bodies see: node-livecode evaluates them in the global scope.
Object.assign(globalThis, { randomBytes, timingSafeEqual })

const instructions = Object.create(null)
const usesLogLines = options['log-lines'] === 'on'
const terminal = options.console === undefined ? console : consoleOn(options.console)

/** A console that writes to a file as Node's own does where standard output is a file: at once. */
function consoleOn(path) {
    const descriptor = openSync(path, 'a')
    return new Console(new Writable({
        write(chunk, _, done) {
            writeSync(descriptor, chunk)
            done()
        },
    }))
}

function log(socket, text) {
    if (!usesLogLines) return
    const line = `server: ${text}`
    socket.send(line)
    terminal.log(line)
}

function evaluateInGlobalScope(source) {
    return (0, eval)(source)
}

function addInstruction({ instructionToAdd: name, body }) {
    const handler = evaluateInGlobalScope(`(${body})`)
    if (typeof handler !== 'function') throw new TypeError(`the body of '${name}' is no function`)
    instructions[name] = handler
}

/** One message: an admin's built-in, or an added instruction called with the socket as `this`. */
function receive(socket, text) {
    let message
    try {
        message = JSON.parse(text)
    } catch {
        log(socket, `rejected malformed command${text}`)
        return
    }
    const { instruction, parameters, credential, id } = message
    log(socket, `received command '${instruction}'`)
    if (credential === options.credential && instruction === 'add instruction') {
        log(socket, `adding instruction '${parameters.instructionToAdd}'`)
        answer(socket, id, () => addInstruction(parameters))
    } else if (credential === options.credential && instruction === 'eval') {
        log(socket, 'evaluating code')
        answer(socket, id, () => evaluateInGlobalScope(parameters.body))
    } else if (typeof instructions[instruction] === 'function') {
        log(socket, `evaluating added instruction '${instruction}'`)
        log(socket, instructions[instruction].apply(socket, parameters))
    } else {
        log(socket, `rejected command '${instruction}'`)
    }
}

/** Built-ins reply to a message with an id, as relayd does; without one they say nothing of their own. */
function answer(socket, id, work) {
    try {
        work()
        if (id !== undefined) socket.send(JSON.stringify({ id, result: {} }))
    } catch (error) {
        log(socket, String(error))
        if (id !== undefined) {
            socket.send(JSON.stringify({ id, error: { code: 'compile_error', message: String(error) } }))
        }
    }
}

// The tunnel. These are texts because they travel as texts: each is put by `add instruction` like any other.
const tunnel = {
    initialize: `function () {
        globalThis.credentials = []
        globalThis.servers = []
        globalThis.channels = []
        globalThis.delimiter = '\\u001f'
        return 'initialized tunnel relay'
    }`,
    'create server credential': `function () {
        const credential = randomBytes(16).toString('hex')
        const serverID = credentials.push(credential) - 1
        this.send(serverID + ' ' + credential)
        return 'created server credential'
    }`,
    'install server': `function (serverID, credential) {
        const expected = Buffer.from(String(credentials[serverID] ?? ''))
        const given = Buffer.from(String(credential))
        if (expected.length === 0 || expected.length !== given.length || !timingSafeEqual(expected, given)) {
            this.send('0')
            return 'bad credential'
        }
        servers[serverID] = this
        this.serverID = serverID
        this.send('1')
        return 'installed server'
    }`,
    'connect to server': `function (serverID, port) {
        const server = servers[serverID]
        if (server === undefined) {
            this.send('0')
            return 'server not connected'
        }
        const channel = channels.push({ server, client: this, serverID }) - 1
        server.send('connected:atPort:for: ' + channel + delimiter + port + delimiter + this.remoteAddress)
        this.send('1')
        return 'connected client'
    }`,
    'forward to client': `function (channel, data) {
        const found = channels[channel]
        if (found === undefined || found.server !== this) {
            this.send('0')
            return 'no such client channel'
        }
        found.client.send('from:data: ' + found.serverID + delimiter + data)
        this.send('1')
        return 'sent data to client'
    }`,
    'forward to server': `function (channel, data) {
        const found = channels[channel]
        if (found === undefined || found.client !== this) {
            this.send('0')
            return 'no such server channel'
        }
        found.server.send('from:data: ' + channel + delimiter + data)
        this.send('1')
        return 'sent data to server'
    }`,
}
for (const [instructionToAdd, body] of Object.entries(tunnel)) addInstruction({ instructionToAdd, body })
instructions.initialize()

const relay = new WebSocketLibrary.Server({ host: '127.0.0.1', port: Number(options.port), backlog: 4096 })
relay.on('connection', (socket, request) => {
    socket.remoteAddress = request.socket.remoteAddress
    socket.on('message', (text) => receive(socket, text))
    socket.on('error', () => socket.terminate())
})
relay.on('listening', () => writeSync(1, `listening ws://127.0.0.1:${relay.address().port}\n`))
process.on('SIGTERM', () => process.exit(0))
