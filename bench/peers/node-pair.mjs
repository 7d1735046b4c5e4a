// A relay of raw pairs: plain Node and `ws`. Two connections that send {"instruction":"pair","parameters":[NAME]} with
// the same name are both told "paired"; from then on what one sends goes to the other.
//
//   node-pair.mjs [--port N] [--forward FUNCTION]
//
// --forward FUNCTION   what hands a message on, as JavaScript; a faulty one shows whether the load generator notices.
//
// When it listens it prints `listening ws://127.0.0.1:PORT` on standard output.

import { writeSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { library as WebSocketLibrary } from './websocket-library.mjs'

const { values: options } = parseArgs({
    options: {
        port: { type: 'string', default: '0' },
        forward: { type: 'string', default: '(other, data, isBinary) => other.send(data, { binary: isBinary })' },
    },
})
const forward = (0, eval)(options.forward)
const waiting = new Map()

function pair(socket, name) {
    const other = waiting.get(name)
    if (other === undefined) {
        waiting.set(name, socket)
        return
    }
    waiting.delete(name)
    for (const [one, another] of [[socket, other], [other, socket]]) {
        one.removeAllListeners('message')
        one.on('message', (data, isBinary) => forward(another, data, isBinary, one))
        one.send('paired')
    }
}

// Compression is off as it is by default: https://github.com/websockets/ws#websocket-compression
const relay = new WebSocketLibrary.Server({ host: '127.0.0.1', port: Number(options.port), backlog: 4096 })
relay.on('connection', (socket) => {
    socket.on('message', (text) => {
        const { instruction, parameters } = JSON.parse(text)
        if (instruction === 'pair') pair(socket, parameters[0])
    })
    socket.on('error', () => socket.terminate())
})
relay.on('listening', () => writeSync(1, `listening ws://127.0.0.1:${relay.address().port}\n`))
process.on('SIGTERM', () => process.exit(0))
