// The other side of the client: a WebSocket whose relay is the test. Frames are written and read here anew, so that a
// mistake of relay.js is not made twice.

import assert from 'node:assert/strict'
import { afterEach } from 'node:test'
import { Relay } from '../relay.js'

export const TYPES = {
    binary: 0x00, text: 0x01, binaryMore: 0x80, textMore: 0x81, open: 0x10, accept: 0x11, reject: 0x12, credit: 0x13,
    end: 0x14, close: 0x15, drain: 0x16, ping: 0x17, pong: 0x18,
}
const NAMES = Object.fromEntries(Object.entries(TYPES).map(([name, value]) => [value, name]))

/** The bytes of a frame; a payload may be text, bytes, or numbers of bytes as `[value, width]`. */
export function frame(type, channel, ...parts) {
    const head = Buffer.alloc(5)
    head.writeUInt8(typeof type === 'string' ? TYPES[type] : type)
    head.writeUInt32BE(channel, 1)
    const payload = parts.map((part) => {
        if (!Array.isArray(part)) return Buffer.from(part)
        const number = Buffer.alloc(part[1])
        number.writeUIntBE(part[0], 0, part[1])
        return number
    })
    const whole = Buffer.concat([head, ...payload])
    return whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.length)
}

export const accept = (channel, credit) => frame('accept', channel, [credit, 4])
export const credit = (channel, bytes) => frame('credit', channel, [bytes, 4])
export const reject = (channel, code, reason = '') => frame('reject', channel, [code, 2], reason)
export const close = (channel, code, reason = '') => frame('close', channel, [code, 2], reason)
export const open = (channel, fields) => frame('open', channel, JSON.stringify(fields))

/** A frame that the client sent, in words. */
function read(data) {
    if (typeof data === 'string') return JSON.parse(data)
    const bytes = Buffer.from(data)
    const payload = bytes.subarray(5)
    const type = NAMES[bytes[0]]
    const result = { type, channel: bytes.readUInt32BE(1) }
    switch (type) {
    case 'accept': case 'credit': return { ...result, bytes: payload.readUInt32BE() }
    case 'reject': case 'close': return { ...result, code: payload.readUInt16BE(), reason: `${payload.subarray(2)}` }
    case 'open': return { ...result, ...JSON.parse(payload) }
    case 'text': case 'textMore': return { ...result, data: `${payload}` }
    case 'end': case 'ping': return result
    default: return { ...result, data: payload }
    }
}

/** A set of WebSockets of one test, in the order in which they were made. */
export function fakeWebSockets() {
    const sockets = []
    const waiting = []

    class FakeWebSocket extends EventTarget {
        readyState = 0
        bufferedAmount = 0
        protocol = ''
        #sent = []
        closedWith

        constructor(url, protocols) {
            super()
            Object.assign(this, { url, protocols })
            sockets.push(this)
            waiting.shift()?.(this)
        }

        #tell(type, event) {
            this[`on${type}`]?.(event)
            this.dispatchEvent(Object.assign(new Event(type), event))
        }

        send(data) {
            assert.equal(this.readyState, 1, 'sent before the 101')
            this.#sent.push(typeof data === 'string' ? data : data.slice())
        }

        close(code, reason) {
            if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) throw new Error(`code ${code}`)
            this.closedWith ??= { code, reason }
            this.readyState = 3
        }

        // The relay's side

        opened(protocol = 'relay.v1') {
            this.readyState = 1
            this.protocol = protocol
            this.#tell('open', {})
            return this
        }

        receive(...messages) {
            for (const data of messages) this.#tell('message', { data })
        }

        closed(code = 1006, reason = '') {
            this.readyState = 3
            this.#tell('close', { code, reason })
        }

        /** What the client has sent since the last look. */
        sent() {
            return this.#sent.splice(0).map(read)
        }
    }

    return { FakeWebSocket, sockets, next: () => new Promise((resolve) => waiting.push(resolve)) }
}

/** Lets everything run that waits for nothing but its turn. */
export const settled = () => new Promise((resolve) => setImmediate(resolve))

const relays = []
afterEach(() => { for (const relay of relays.splice(0)) relay.close() })

/** A relay that is open until the end of the test, and what it is made of. */
export async function openRelay(options = {}) {
    const fake = fakeWebSockets()
    const opening = Relay.open('ws://relay.test/', { WebSocket: fake.FakeWebSocket, credential: 'id.secret', ...options })
    await settled()
    const socket = fake.sockets[0].opened()
    const relay = await opening
    relays.push(relay)
    return { ...fake, socket, relay }
}

/** A channel that this end has opened, with `bytes` of credit. */
export async function openChannel(bytes = 1 << 20, options = {}, connectOptions = {}) {
    const all = await openRelay(options)
    const connecting = all.relay.connect('box', 22, connectOptions)
    await settled()
    const number = all.socket.sent().at(-1).channel
    all.socket.receive(accept(number, bytes))
    return { ...all, number, channel: await connecting }
}

/** A registered server whose handler is `handler`. */
export async function openServer(handler, options = {}) {
    const all = await openRelay(options)
    const listening = all.relay.listen('box', { ports: [22, [80, 90]] }, handler)
    await settled()
    const server = all.sockets.at(-1).opened()
    return { ...all, server, registration: await listening }
}
