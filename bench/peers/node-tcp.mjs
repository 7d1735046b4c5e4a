// A proxy of TCP streams, for the load generator's self-test: plain Node.
//
//   node-tcp.mjs --port N --to N [--forward FUNCTION]
//
// --forward FUNCTION   what hands a piece of a stream on, as JavaScript; a faulty one shows whether the load generator
//                      notices.

import { connect, createServer } from 'node:net'
import { parseArgs } from 'node:util'

const { values: options } = parseArgs({
    options: {
        port: { type: 'string' },
        to: { type: 'string' },
        forward: { type: 'string', default: '(pass, bytes, socket) => pass(bytes)' },
    },
})
const forward = (0, eval)(options.forward)

function join(source, target) {
    source.on('data', (bytes) => forward((piece) => {
        if (!target.write(piece)) source.pause()
    }, bytes, target))
    target.on('drain', () => source.resume())
    source.on('end', () => target.end())
    source.on('error', () => target.destroy())
    source.on('close', () => target.destroySoon())
}

createServer({ allowHalfOpen: true }, (near) => {
    const far = connect({ host: '127.0.0.1', port: Number(options.to), allowHalfOpen: true })
    join(near, far)
    join(far, near)
}).listen({ host: '127.0.0.1', port: Number(options.port) })
process.on('SIGTERM', () => process.exit(0))
