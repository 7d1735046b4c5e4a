// WebSockets for a back end that speaks HTTP: plain Node, `ws` and `http`. In the words of scripts/webhooks.lua:
//
//   POST   {back end}/{id}   {"code":"NEW_CONNECTION","ws_uri":…}; only 200 with {"code":"OK"} lets a client in
//   PUT    {back end}/{id}   what a client says, in order for each
//   DELETE {back end}/{id}   when it is gone
//   PUT    {ws_uri}          what it is told, with the credential as a bearer token
//
//   node-webhook.mjs --port N --to PORT --credential SECRET [--forward FUNCTION]
//
// --forward FUNCTION   what hands a message on, either way, as JavaScript; a faulty one shows whether the load generator notices.

import { createServer, request, Agent } from 'node:http'
import { randomUUID, timingSafeEqual } from 'node:crypto'
import { parseArgs } from 'node:util'
import { library as WebSocketLibrary } from './websocket-library.mjs'

const { values: options } = parseArgs({
    options: {
        port: { type: 'string' },
        to: { type: 'string' },
        credential: { type: 'string' },
        forward: { type: 'string', default: '(pass, data) => pass(data)' },
    },
})
const forward = (0, eval)(options.forward)
const expected = Buffer.from(`Bearer ${options.credential}`)
const agent = new Agent({ keepAlive: true, maxSockets: 128 })
const connections = new Map()

function ask(method, id, body, type) {
    return new Promise((resolve, reject) => {
        const headers = { 'Content-Length': body.length, ...(type ? { 'Content-Type': type } : {}) }
        const call = request({ host: '127.0.0.1', port: Number(options.to), path: `/${id}`, method, headers, agent })
        call.on('response', (answer) => {
            const parts = []
            answer.on('data', (part) => parts.push(part))
            answer.on('end', () => resolve({ status: answer.statusCode, body: Buffer.concat(parts) }))
        })
        call.on('error', reject)
        call.end(body)
    })
}

const isOkay = ({ status, body }) => status === 200 && JSON.parse(body).code === 'OK'

/** One message after the other, each when the one before has been answered. */
function hear(socket, id) {
    let last = Promise.resolve()
    socket.on('message', (data, isBinary) => {
        const type = isBinary ? 'application/octet-stream' : 'text/plain'
        last = last.then(() => forward((bytes) => ask('PUT', id, bytes, type), data, socket))
        last.catch(() => socket.close(1011))
    })
    socket.on('close', () => {
        connections.delete(id)
        last.catch(() => {}).then(() => ask('DELETE', id, '')).catch(() => {})
    })
    socket.on('error', () => socket.terminate())
}

function isAllowed(header) {
    const given = Buffer.from(header ?? '')
    return given.length === expected.length && timingSafeEqual(given, expected)
}

const server = createServer((asked, answer) => {
    const parts = []
    asked.on('data', (part) => parts.push(part))
    asked.on('end', () => {
        const reply = (status, code) => {
            const body = JSON.stringify({ code })
            answer.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': body.length }).end(body)
        }
        const socket = connections.get(asked.url.slice(1))
        if (!isAllowed(asked.headers.authorization)) return reply(401, 'BAD_REQUEST')
        if (asked.method !== 'PUT') return reply(405, 'BAD_REQUEST')
        if (socket === undefined) return reply(404, 'NOT_FOUND')
        const binary = asked.headers['content-type'] === 'application/octet-stream'
        forward((bytes) => socket.send(bytes, { binary }), Buffer.concat(parts), socket)
        reply(200, 'OK')
    })
})
const relay = new WebSocketLibrary.Server({ noServer: true })
server.on('upgrade', async (asked, stream, head) => {
    const id = randomUUID()
    const opening = Buffer.from(JSON.stringify({ code: 'NEW_CONNECTION', ws_uri: `127.0.0.1:${options.port}/${id}` }))
    const answer = await ask('POST', id, opening, 'application/json').catch(() => ({ status: 0 }))
    if (!isOkay(answer)) return stream.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
    relay.handleUpgrade(asked, stream, head, (socket) => {
        connections.set(id, socket)
        hear(socket, id)
    })
})
server.listen({ host: '127.0.0.1', port: Number(options.port), backlog: 4096 })
process.on('SIGTERM', () => process.exit(0))
