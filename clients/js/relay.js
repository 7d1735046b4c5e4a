// The JavaScript client of relayd, for browsers, workers and Node 20 or later: one module, no dependencies. It speaks
// relay.v1 (docs/relay.v1.md); relay.d.ts says what each call does.
//
//     Relay, Registration    what people hold besides channels; each is a Link
//     Link                   a connection that lasts: one Wire after another, with pauses between them
//     Wire                   one WebSocket: frames, requests, pings, and whose turn it is to send
//     Channel                one pairing as people see it: events, or streams
//     Flow                   the same as the protocol sees it: credit, queues, states

const SUBPROTOCOL = 'relay.v1'

// Types of frames. DATA is the type of a message, BINARY or TEXT, with MORE when it goes on in another frame.
const BINARY = 0x00, TEXT = 0x01, MORE = 0x80
const OPEN = 0x10, ACCEPT = 0x11, REJECT = 0x12, CREDIT = 0x13, END = 0x14, CLOSE = 0x15
const DRAIN = 0x16, PING = 0x17, PONG = 0x18

// readyState, with the values of WebSocket.
const CONNECTING = 0, OPENED = 1, CLOSING = 2, CLOSED = 3

/** What a channel sends before the next has its turn: 13 ms of a link of 10 Mbit/s. */
const FRAME_BYTES = 16 << 10
/** How much may wait in the WebSocket, where no turns are taken any more; it follows how fast that empties. */
const WAITING_BYTES = { least: 32 << 10, first: 64 << 10, most: 1 << 20 }
/** What `open` grants when it does not say (docs/relay.v1.md, Credit). */
const DEFAULT_CREDIT = 256 << 10
/** Messages of no bytes use no credit, so what waits to be read is counted, too. */
const LEAST_PIECES = 64 << 10
const CHANNELS_PER_CONNECTION = 4096
const CLOSE_TIMEOUT = 30_000
/** A connection that lasted so long was no failure. */
const STABLE_AFTER = 10_000

/** Codes after which connecting again would be wrong or useless: `CloseCode` of the relay has the same list. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010, 1015, 4001, 4002, 4005, 4007])

const DEFAULTS = {
    credential: undefined,
    WebSocket: globalThis.WebSocket,
    pingInterval: 15_000,
    connectTimeout: 15_000,
    minimumDelay: 500,
    maximumDelay: 30_000,
    credit: DEFAULT_CREDIT,
    maximumMessageBytes: 16 << 20,
}

const NO_BYTES = new Uint8Array(0)
const encoder = new TextEncoder()

/** Why something failed. `code` is a close code or status where the relay or the other end closed or rejected, and one
 * of the relay's words (`relayd explain`) for a request. */
export class RelayError extends Error {
    constructor(code, message, data) {
        super(message || `code ${code}`)
        this.name = 'RelayError'
        this.code = code
        this.data = data
    }
}

const invalidState = (text) => new DOMException(text, 'InvalidStateError')

// MARK: Bytes

function frame(type, number, payload = NO_BYTES) {
    const bytes = new Uint8Array(5 + payload.length)
    bytes[0] = type
    new DataView(bytes.buffer).setUint32(1, number)
    bytes.set(payload, 5)
    return bytes
}

function u32(value) {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, value)
    return bytes
}

/** A code and a reason; the reason is cut to what a close frame of a WebSocket can carry. */
function closing(code, reason) {
    const bytes = new Uint8Array(2 + 123)
    new DataView(bytes.buffer).setUint16(0, code)
    const { written } = encoder.encodeInto(reason, bytes.subarray(2))
    return bytes.subarray(0, 2 + written)
}

/** A payload that `closing` made; undefined where it is too short. */
function readClosing(payload) {
    if (payload.length < 2) return undefined
    return { code: payload[0] << 8 | payload[1], reason: new TextDecoder().decode(payload.subarray(2)) }
}

function readU32(payload) {
    if (payload.length !== 4) return undefined
    return new DataView(payload.buffer, payload.byteOffset).getUint32(0)
}

/** An object or array; undefined for what is none. */
function parseJSON(text) {
    try {
        const value = JSON.parse(text)
        return typeof value === 'object' && value !== null ? value : undefined
    } catch {
        return undefined
    }
}

const readJSON = (payload) => parseJSON(new TextDecoder().decode(payload))

function sizeOf(data) {
    return data?.size ?? data?.byteLength ?? String(data).length
}

/** First in, first out; `shift` of an array moves all that is behind it. */
class Queue {
    #items = []
    #head = 0

    get length() { return this.#items.length - this.#head }
    get first() { return this.#items[this.#head] }
    push(item) { this.#items.push(item) }

    shift() {
        if (this.length === 0) return undefined
        const item = this.#items[this.#head]
        this.#items[this.#head++] = undefined
        if (this.#head === this.#items.length || this.#head >= 1024 && this.#head * 2 >= this.#items.length) {
            this.#items.splice(0, this.#head)
            this.#head = 0
        }
        return item
    }
}

// MARK: Flow

/** One channel as the protocol sees it. `face` is told what happens: `opened()`, `deliver()` when there is something
 * to take or the other side has ended, `over(code, reason, wasClean)` once. */
class Flow {
    readyState = CONNECTING
    face

    // Sending. An item is a message, in part sent perhaps, or a whole frame that keeps its place behind messages.
    outbox = new Queue()
    bufferedAmount = 0
    credit = 0
    /** Whether the wire has it among those that want a turn. */
    isReady = false
    hasEnded = false
    #endIsSent = false
    #closeTimer

    // Receiving. `window` is what the other end may still send; `taken` what has been taken and not granted again.
    inbox = new Queue()
    window = 0
    otherHasEnded = false
    #taken = 0
    /** The type of the message of which more has to come. */
    #within
    /** The beginning of a message that is taken as a whole. */
    #assembly = NO_BYTES
    #assembled = 0

    constructor(wire, number, { credit, maximumMessageBytes }) {
        if (!(Number.isInteger(credit) && credit > 0 && credit <= 0xffffffff)) {
            throw new RangeError(`${credit} is no credit: 1 to 4294967295 bytes`)
        }
        this.wire = wire
        this.number = number
        this.size = credit
        this.maximumMessageBytes = maximumMessageBytes
    }

    // Opening and closing

    accept() {
        if (this.readyState !== CONNECTING) return
        this.wire.send(frame(ACCEPT, this.number, u32(this.size)))
        this.opened(this.credit)
    }

    reject(code, reason) {
        if (this.readyState !== CONNECTING) throw invalidState('the channel has been accepted, or is closed')
        this.wire.send(frame(REJECT, this.number, closing(code, reason)))
        this.finish(code, reason, true)
    }

    /** Both sides have agreed; this one may send `credit` bytes. */
    opened(credit) {
        this.readyState = OPENED
        this.credit = credit
        this.window = this.size
        this.face.opened()
    }

    /** The channel is someone else's: nothing under this number concerns us any more. */
    leave() {
        this.readyState = CLOSED
        this.wire.flows.delete(this.number)
    }

    /** Ends both directions behind what is queued. */
    close(code, reason) {
        if (this.readyState === CONNECTING) return this.reject(code, reason)
        if (this.readyState !== OPENED) return
        this.readyState = CLOSING
        this.#queueFrame(frame(CLOSE, this.number, closing(code, reason)), () => this.finish(code, reason, true))
        if (this.readyState === CLOSING) {
            this.#closeTimer = setTimeout(() => this.abort(code, reason), CLOSE_TIMEOUT)
        }
    }

    /** Ends both directions now. `wasClean` is false where the other end broke a rule. */
    abort(code, reason, wasClean = true) {
        if (this.readyState === CLOSED) return
        this.wire.send(frame(CLOSE, this.number, closing(code, reason)))
        this.finish(code, reason, wasClean)
    }

    finish(code, reason, wasClean) {
        if (this.readyState === CLOSED) return
        clearTimeout(this.#closeTimer)
        this.leave()
        const error = new RelayError(code, reason)
        while (this.outbox.length > 0) this.outbox.shift().failed?.(error)
        this.face.over(code, reason, wasClean && this.#within === undefined)
    }

    // Sending

    /** Queues a message. `done` is called when all of it has left; `failed` when it cannot leave any more. */
    enqueue(data, done, failed) {
        this.accept()
        if (this.hasEnded) throw invalidState('nothing can be sent after end()')
        if (this.readyState !== OPENED) {
            failed?.(new RelayError('closed', 'the channel is closed'))
            return
        }
        const item = { type: BINARY, bytes: NO_BYTES, offset: 0, left: 0, blob: undefined, done, failed }
        if (data instanceof ArrayBuffer) item.bytes = new Uint8Array(data)
        else if (ArrayBuffer.isView(data)) item.bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
        else if (data instanceof Blob) item.blob = data
        else [item.type, item.bytes] = [TEXT, encoder.encode(String(data))]
        item.left = item.blob?.size ?? item.bytes.length
        this.outbox.push(item)
        this.bufferedAmount += item.left
        this.wire.ready(this)
        // The caller may use its memory again.
        if (item.left > 0 && item.type === BINARY) {
            item.bytes = item.bytes.slice(item.offset)
            item.offset = 0
        }
    }

    /** Says that no more data follows, behind what is queued. */
    end() {
        if (this.hasEnded) return Promise.resolve()
        this.accept()
        this.hasEnded = true
        const sent = new Promise((resolve, failed) => {
            this.#queueFrame(frame(END, this.number), () => {
                this.#endIsSent = true
                resolve()
                if (this.otherHasEnded) this.finish(1000, '', true)
            }, failed)
        })
        sent.catch(() => {})  // Not everybody waits for it.
        return sent
    }

    #queueFrame(whole, done, failed) {
        this.outbox.push({ whole, done, failed })
        this.wire.ready(this)
    }

    /** What to send when it is this channel's turn; undefined where it has nothing, or no credit for it. */
    nextFrame() {
        const item = this.outbox.first
        if (item === undefined) return undefined
        if (item.whole !== undefined) {
            this.outbox.shift()
            // `done` may close the channel, so the frame has to be on its way before.
            this.wire.send(item.whole)
            item.done()
            return this.nextFrame()
        }
        if (item.left > 0 && this.credit === 0) return undefined
        if (item.blob !== undefined && item.offset === item.bytes.length && item.left > 0) {
            this.#load(item)
            return undefined
        }
        const count = Math.min(item.bytes.length - item.offset, this.credit, FRAME_BYTES)
        const payload = item.bytes.subarray(item.offset, item.offset + count)
        item.offset += count
        item.left -= count
        this.credit -= count
        this.bufferedAmount -= count
        if (item.left === 0) {
            this.outbox.shift()
            item.done?.()
        }
        return frame(item.left > 0 ? item.type | MORE : item.type, this.number, payload)
    }

    /** Reads on in a blob; the channel has its next turn when that is there. */
    async #load(item) {
        if (item.isLoading) return
        item.isLoading = true
        try {
            const start = item.blob.size - item.left
            item.bytes = new Uint8Array(await item.blob.slice(start, start + DEFAULT_CREDIT).arrayBuffer())
            item.offset = 0
        } catch (error) {
            return this.abort(4006, `a blob cannot be read: ${error.message}`, false)
        } finally {
            item.isLoading = false
        }
        this.wire.ready(this)
    }

    granted(bytes) {
        this.credit += bytes
        this.wire.ready(this)
    }

    // Receiving

    received(type, bytes) {
        if (this.readyState === CLOSING) return
        const more = (type & MORE) !== 0
        type &= ~MORE
        if (this.readyState === CONNECTING) return this.abort(1002, 'data before accept', false)
        if (this.otherHasEnded) return this.abort(1002, 'data after end', false)
        if (bytes.length > this.window) return this.abort(4006, 'credit exceeded', false)
        if (type !== (this.#within ?? type)) return this.abort(1002, 'the type changed within a message', false)
        if (this.inbox.length >= Math.max(this.size, LEAST_PIECES)) {
            return this.abort(4006, 'too many messages wait to be read', false)
        }
        this.#within = more ? type : undefined
        this.window -= bytes.length
        if (more && bytes.length === 0) return
        this.inbox.push({ type, more, bytes })
        this.face.deliver()
    }

    ended() {
        if (this.readyState === CLOSING) return
        if (this.readyState === CONNECTING || this.otherHasEnded || this.#within !== undefined) {
            return this.abort(1002, 'an end out of turn', false)
        }
        this.otherHasEnded = true
        this.face.deliver()
        if (this.#endIsSent) this.finish(1000, '', true)
    }

    /** The next piece as it came: bytes of a message of either kind. */
    takePiece() {
        const piece = this.inbox.shift()
        this.#taken += piece?.bytes.length ?? 0
        this.#grant()
        return piece?.bytes
    }

    /** The next message as a whole, a text or bytes; undefined as long as it is not all there. */
    takeMessage() {
        let piece
        do {
            piece = this.inbox.shift()
            if (piece === undefined) break
            this.#taken += piece.bytes.length
            if (this.#assembled + piece.bytes.length > this.maximumMessageBytes) {
                this.abort(4006, `a message exceeds ${this.maximumMessageBytes} bytes`, false)
                this.inbox = new Queue()
                return undefined
            }
            if (piece.more || this.#assembled > 0) this.#assemble(piece.bytes)
        } while (piece.more)
        this.#grant()
        if (piece === undefined) return undefined
        const bytes = this.#assembled > 0 ? this.#assembly.subarray(0, this.#assembled) : piece.bytes
        this.#assembly = NO_BYTES
        this.#assembled = 0
        if (piece.type === BINARY) return bytes
        try {
            return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
        } catch {
            this.abort(1007, 'a text that is not UTF-8', false)
            return undefined
        }
    }

    /** In one buffer that grows, so that a message in pieces of one byte takes no more memory than another. */
    #assemble(bytes) {
        const needed = this.#assembled + bytes.length
        if (needed > this.#assembly.length) {
            const larger = new Uint8Array(Math.max(2 * needed, FRAME_BYTES))
            larger.set(this.#assembly.subarray(0, this.#assembled))
            this.#assembly = larger
        }
        this.#assembly.set(bytes, this.#assembled)
        this.#assembled = needed
    }

    #grant() {
        if (this.#taken * 2 < this.size || this.readyState !== OPENED || this.otherHasEnded) return
        this.wire.send(frame(CREDIT, this.number, u32(this.#taken)))
        this.window += this.#taken
        this.#taken = 0
    }
}

// MARK: Channel

const EVENTS = 'events', MESSAGES = 'messages', BYTES = 'bytes'

const CloseEvent = globalThis.CloseEvent ?? class extends Event {
    constructor(type, { code, reason, wasClean }) {
        super(type)
        Object.assign(this, { code, reason, wasClean })
    }
}

/** Gives a class the properties `onNAME`, as the DOM's objects have them (HTML §8.1.8.1). */
function handlerProperties(type, names) {
    for (const name of names) {
        const handlers = new WeakMap()
        Object.defineProperty(type.prototype, `on${name}`, {
            get() { return handlers.get(this)?.handler ?? null },
            set(handler) {
                const old = handlers.get(this)
                if (old !== undefined) this.removeEventListener(name, old.listener)
                handlers.delete(this)
                if (typeof handler !== 'function') return
                const listener = (event) => handler.call(this, event)
                handlers.set(this, { handler, listener })
                this.addEventListener(name, listener)
            },
        })
    }
}

/** What was asked of `Relay.connect`, or is in the `open` of a client, beside the flow. */
export class Channel extends EventTarget {
    static CONNECTING = CONNECTING
    static OPEN = OPENED
    static CLOSING = CLOSING
    static CLOSED = CLOSED

    #flow
    #endpoint
    #ticket
    #binaryType = 'arraybuffer'
    /** How it is read, once that has been chosen. */
    #mode
    #readable
    #writable
    #source
    #isWanted = false
    #sink
    #endIsTold = false
    /** Set when it is over: a RelayError, or null where that was the regular end. */
    #failure

    constructor(endpoint, flow, { server, port, remoteAddress, metadata, ticket }) {
        super()
        this.#endpoint = endpoint
        this.#flow = flow
        this.#ticket = ticket
        this.server = server
        this.port = port
        this.remoteAddress = remoteAddress
        this.metadata = metadata ?? null
        flow.face = {
            opened: () => this.dispatchEvent(new Event('open')),
            deliver: () => this.#deliver(),
            over: (code, reason, wasClean) => this.#over(code, reason, wasClean),
        }
    }

    get readyState() { return this.#flow.readyState }
    get bufferedAmount() { return this.#flow.bufferedAmount }
    get binaryType() { return this.#binaryType }
    set binaryType(type) { if (type === 'blob' || type === 'arraybuffer') this.#binaryType = type }

    // Opening, sending, closing

    accept() { this.#flow.accept() }

    reject(code = 403, reason = '') {
        if (!Number.isInteger(code) || code < 1 || code > 0xffff) throw new RangeError(`${code} is no code`)
        this.#flow.reject(code, reason)
    }

    /** Answers the open through a WebSocket of its own (rendezvous), whose 101 is the acceptance. */
    dedicated(protocols = []) {
        const flow = this.#flow
        if (!this.#ticket || flow.readyState !== CONNECTING) {
            throw invalidState('only an open that has not been answered has a ticket')
        }
        const socket = this.#endpoint.socket(`/a/${encodeURIComponent(this.#ticket)}`, protocols)
        flow.leave()
        let isOpen = false
        socket.addEventListener('open', () => { isOpen = true })
        socket.addEventListener('close', () => {
            if (!isOpen) flow.wire.send(frame(REJECT, flow.number, closing(502, 'no dedicated connection')))
        })
        return socket
    }

    send(data) { this.#flow.enqueue(data) }

    end() { return this.#flow.end() }

    close(code = 1000, reason = '') {
        if (code !== 1000 && !(Number.isInteger(code) && code >= 3000 && code <= 4999)) {
            throw new DOMException(`${code} is not 1000 and not from 3000 to 4999`, 'InvalidAccessError')
        }
        if (encoder.encode(reason).length > 123) throw new DOMException('the reason exceeds 123 bytes', 'SyntaxError')
        this.#flow.close(code, reason)
    }

    // Reading: messages as events

    addEventListener(type, ...rest) {
        if (type === 'message') this.#choose(EVENTS)
        super.addEventListener(type, ...rest)
    }

    #choose(mode) {
        if (this.#mode === mode) return
        if (this.#mode !== undefined) throw invalidState(`the channel is read as ${this.#mode} already`)
        this.#mode = mode
        if (mode === EVENTS) queueMicrotask(() => this.#deliver())
    }

    #deliver() {
        if (this.#mode === EVENTS) {
            let message
            while ((message = this.#flow.takeMessage()) !== undefined) {
                this.dispatchEvent(new MessageEvent('message', { data: this.#data(message) }))
            }
        } else if (this.#source !== undefined) {
            this.#feed()
        }
        if (this.#flow.otherHasEnded && this.#flow.inbox.length === 0 && !this.#endIsTold) {
            this.#endIsTold = true
            this.dispatchEvent(new Event('end'))
        }
    }

    #data(message) {
        if (typeof message === 'string') return message
        return this.#binaryType === 'blob' ? new Blob([message]) : message.slice().buffer
    }

    #over(code, reason, wasClean) {
        this.#failure = code === 1000 && wasClean ? null : new RelayError(code, reason)
        this.#sink?.error(this.#failure ?? new RelayError(code, 'the channel is closed'))
        this.#deliver()
        // Whoever has only just got the channel must have the time to listen.
        setTimeout(() => {
            if (!wasClean) this.dispatchEvent(new Event('error'))
            this.dispatchEvent(new CloseEvent('close', { code, reason, wasClean }))
        })
    }

    // Reading and writing: streams

    get readable() { return this.#stream(MESSAGES) }
    get bytes() { return this.#stream(BYTES) }

    #stream(mode) {
        this.#choose(mode)
        this.#readable ??= new ReadableStream({
            start: (controller) => { this.#source = controller },
            pull: () => {
                this.#flow.accept()
                this.#isWanted = true
                this.#feed()
            },
            cancel: () => {
                this.#source = undefined
                this.#flow.close(1000, '')
            },
        }, { highWaterMark: 0 })
        return this.#readable
    }

    #feed() {
        const flow = this.#flow
        if (this.#isWanted) {
            let chunk
            do {
                chunk = this.#mode === BYTES ? flow.takePiece() : flow.takeMessage()
            } while (this.#mode === BYTES && chunk?.length === 0)
            if (chunk !== undefined) {
                this.#isWanted = false
                this.#source.enqueue(chunk)
            }
        }
        if (flow.inbox.length > 0 || this.#source === undefined) return
        const source = this.#source
        if (this.#failure) source.error(this.#failure)
        else if (flow.otherHasEnded || this.#failure === null) source.close()
        else return
        this.#source = undefined
    }

    async *[Symbol.asyncIterator]() {
        const reader = this.readable.getReader()
        try {
            for (;;) {
                const { done, value } = await reader.read()
                if (done) return
                yield value
            }
        } finally {
            await reader.cancel()
        }
    }

    get writable() {
        this.#writable ??= new WritableStream({
            start: (controller) => {
                this.#sink = controller
                // Not the sink's `abort`: that comes when the write has ended that this is to end. And not at once:
                // Node 20 cannot bear that the stream fails within the signal.
                controller.signal.addEventListener('abort', () => queueMicrotask(() => this.#flow.abort(1000, '')))
            },
            write: (chunk) => new Promise((done, failed) => this.#flow.enqueue(chunk, done, failed)),
            close: () => this.#flow.end(),
        }, { highWaterMark: FRAME_BYTES, size: sizeOf })
        return this.#writable
    }
}

handlerProperties(Channel, ['open', 'message', 'end', 'error', 'close'])

// MARK: Wire

/** Where a relay is, and what opens a WebSocket to it. */
class Endpoint {
    #url
    #WebSocket

    constructor(url, WebSocket) {
        if (WebSocket === undefined) {
            throw new TypeError('there is no WebSocket here: pass one as an option, or start Node 20 with '
                + '--experimental-websocket')
        }
        this.#WebSocket = WebSocket
        this.#url = new URL(url, globalThis.location?.href)
        this.#url.protocol = this.#url.protocol.replace('http', 'ws')
        this.#url.pathname = this.#url.pathname.replace(/\/+$/, '')
        this.#url.hash = ''
    }

    socket(path, protocols) {
        const url = new URL(this.#url)
        const [pathname, query] = path.split('?')
        url.pathname = url.pathname.replace(/\/$/, '') + pathname
        if (query !== undefined) url.search = url.search === '' ? query : `${url.search}&${query}`
        return new this.#WebSocket(url.href, protocols)
    }
}

/** One WebSocket, until it ends. `owner` is told: `opened()`, or `failed(error)` where there is no 101, `text(data)`,
 * `incoming(channel)`, `draining(milliseconds)` and `lost(code, reason)`. */
class Wire {
    flows = new Map()
    #endpoint
    #options
    #owner
    #socket
    #isOpen = false
    #isLost = false
    #connectTimer
    // Whose turn it is to send
    #turns = new Queue()
    #waitingBytes = WAITING_BYTES.first
    #pollTimer
    // Numbers of channels: ours are odd, the relay's even.
    #nextNumber = 1
    #lastOpened = 0
    #highestEven = 0
    /** The channels of scripts, by number: those that have come and those that are waited for. */
    #expected = new Map()
    #requests = new Map()
    #nextRequest = 1
    #hasHeard = true
    #pingTimer

    constructor(endpoint, path, options, token, owner) {
        this.#endpoint = endpoint
        this.#options = options
        this.#owner = owner
        const socket = endpoint.socket(path, token ? [SUBPROTOCOL, `bearer.${token}`] : [SUBPROTOCOL])
        this.#socket = socket
        socket.binaryType = 'arraybuffer'
        // An error comes before each close, and in Node 20 in its place.
        const problem = 'the relay cannot be reached, or refuses the connection'
        socket.onerror = (event) => this.#failed(1006, event.message || problem)
        socket.onclose = (event) => this.#failed(event.code, event.reason || problem)
        socket.onopen = () => this.#opened()
        this.#connectTimer = setTimeout(
            () => this.#failed(1006, 'the relay did not answer in time'), options.connectTimeout)
    }

    #opened() {
        const socket = this.#socket
        if (socket.protocol !== SUBPROTOCOL) return this.#failed(1010, `the relay does not speak ${SUBPROTOCOL}`)
        clearTimeout(this.#connectTimer)
        this.#isOpen = true
        socket.onmessage = (event) => this.#received(event.data)
        socket.onerror = () => {}  // The close says all; and `ws` throws errors that nobody listens to.
        socket.onclose = (event) => this.lost(event.code, event.reason)
        this.#pingTimer = setInterval(() => this.#ping(), this.#options.pingInterval)
        this.#owner.opened()
    }

    #failed(code, reason) {
        if (this.#isLost) return
        this.#leave(1000, '')
        this.#owner.failed(new RelayError(code, reason))
    }

    /** It is over, in whatever way, and every channel and request with it. */
    lost(code, reason) {
        if (!this.#isOpen) return this.#failed(code, reason)
        if (this.#isLost) return
        this.#leave(1000, '')
        this.#end(code, reason)
    }

    /** The relay has broken a rule. Browsers close with 1000 and with the codes of applications only. */
    #violated(rule) {
        if (this.#isLost) return
        this.#leave(4000, rule)
        this.#end(1002, rule)
    }

    /** Leaves the socket to itself. */
    #leave(code, reason) {
        this.#isLost = true
        clearTimeout(this.#connectTimer)
        clearTimeout(this.#pollTimer)
        clearInterval(this.#pingTimer)
        const socket = this.#socket
        socket.onopen = socket.onmessage = socket.onclose = null
        socket.onerror = () => {}
        socket.close(code, reason)
    }

    #end(code, reason) {
        const error = new RelayError(code, reason || 'the connection to the relay is closed')
        for (const flow of [...this.flows.values()]) flow.finish(code, reason, code === 1000)
        for (const { reject } of [...this.#requests.values(), ...this.#expected.values()]) reject(error)
        this.#owner.lost(code, reason)
    }

    // Sending

    send(data) {
        if (!this.#isLost) this.#socket.send(data)
    }

    /** A channel has something to send: each other one has a turn between two of its own. */
    ready(flow) {
        if (!flow.isReady) {
            flow.isReady = true
            this.#turns.push(flow)
        }
        this.#takeTurns()
    }

    #takeTurns() {
        while (this.#turns.length > 0 && !this.#isLost && this.#socket.bufferedAmount < this.#waitingBytes) {
            const flow = this.#turns.shift()
            const next = flow.nextFrame()
            if (next === undefined) {
                flow.isReady = false
            } else {
                this.send(next)
                this.#turns.push(flow)
            }
        }
        // A WebSocket does not say when it has sent something, so there is nothing but to look.
        if (this.#turns.length > 0 && !this.#isLost) this.#pollTimer ??= setTimeout(() => this.#poll(), 4)
    }

    /** More may wait where all has left since the last look, less where most is still there: what waits delays the
     * next message of another channel, and where nothing waits time is lost (a hidden tab looks once a second). */
    #poll() {
        this.#pollTimer = undefined
        const { least, most } = WAITING_BYTES
        const rest = this.#socket.bufferedAmount
        if (rest === 0) this.#waitingBytes = Math.min(this.#waitingBytes * 2, most)
        else if (rest > this.#waitingBytes / 2) this.#waitingBytes = Math.max(this.#waitingBytes / 2, least)
        this.#takeTurns()
    }

    #ping() {
        if (!this.#hasHeard) return this.lost(1006, 'the relay does not answer')
        this.#hasHeard = false
        return this.send(frame(PING, 0))
    }

    // Receiving

    #received(data) {
        this.#hasHeard = true
        if (typeof data === 'string') return this.#text(data)
        if (data.byteLength < 5) return this.#violated('a frame shorter than its head')
        const head = new DataView(data)
        this.#frame(head.getUint8(0), head.getUint32(1), new Uint8Array(data, 5))
        return this.#takeTurns()
    }

    #frame(type, number, payload) {
        switch (type) {
        case BINARY: case TEXT: case BINARY | MORE: case TEXT | MORE: case CREDIT: case END: case CLOSE:
            return this.#ofChannel(type, number, payload)
        case ACCEPT: case REJECT:
            return this.#answer(type, number, payload)
        case OPEN:
            return this.#incoming(number, payload)
        case PONG: case DRAIN:
            if (number !== 0) return this.#violated('a channel number where there is none')
            return type === DRAIN ? this.#drain(readJSON(payload)) : undefined
        default:
            return this.#violated('a frame of an unknown type')
        }
    }

    #ofChannel(type, number, payload) {
        const flow = this.flows.get(number)
        if (flow === undefined) {
            // What still comes for a channel that is over is ignored.
            const hasBeen = number % 2 === 1 ? number < this.#nextNumber : number > 0 && number <= this.#highestEven
            return hasBeen ? undefined : this.#violated('a frame of no channel')
        }
        if (type === END) return flow.ended()
        if (type !== CREDIT && type !== CLOSE) return flow.received(type, payload)
        const value = type === CREDIT ? readU32(payload) : readClosing(payload)
        if (value === undefined) return this.#violated('a credit or close that cannot be read')
        return type === CREDIT ? flow.granted(value) : flow.finish(value.code, value.reason, value.code !== 1006)
    }

    /** `accept` or `reject`: of an `open` of ours, or out of the blue, of a channel that a script has opened. */
    #answer(type, number, payload) {
        const value = type === ACCEPT ? readU32(payload) : readClosing(payload)
        if (value === undefined) return this.#violated('an answer that cannot be read')
        if (number % 2 === 0) return this.#fromScript(type, number, value)
        const flow = this.flows.get(number)
        if (flow === undefined) return number < this.#nextNumber ? undefined : this.#violated('an answer to no open')
        if (flow.readyState !== CONNECTING) return this.#violated('a second answer')
        return type === ACCEPT ? flow.opened(value) : flow.finish(value.code, value.reason, true)
    }

    #fromScript(type, number, value) {
        if (number === 0 || this.flows.has(number)) return this.#violated('an answer to no open')
        this.#highestEven = Math.max(this.#highestEven, number)
        const expected = this.#expectation(number)
        expected.hasCome = true
        if (expected.isWanted) this.#expected.delete(number)
        if (type === REJECT) return expected.reject(new RelayError(value.code, value.reason))
        const flow = this.#add(number, { ...this.#options, credit: DEFAULT_CREDIT })
        flow.face = { opened: () => expected.resolve(new Channel(this.#endpoint, flow, {})) }
        flow.opened(value)
        if (this.#expected.size <= CHANNELS_PER_CONNECTION) return undefined
        this.#expected.delete(number)
        return flow.abort(4006, 'too many channels that nobody wants')
    }

    #incoming(number, payload) {
        if (number % 2 !== 0 || number <= this.#lastOpened) return this.#violated('a number out of turn')
        this.#lastOpened = number
        this.#highestEven = Math.max(this.#highestEven, number)
        const open = readJSON(payload)
        if (open === undefined) return this.#violated('an open that cannot be read')
        const flow = this.#add(number, this.#options)
        flow.credit = Number.isInteger(open.credit) && open.credit >= 0 ? open.credit : DEFAULT_CREDIT
        const channel = new Channel(this.#endpoint, flow, open)
        if (this.flows.size > CHANNELS_PER_CONNECTION) return flow.reject(503, 'too many channels')
        return this.#owner.incoming(channel)
    }

    #drain(drain) {
        const milliseconds = drain?.reconnectInMilliseconds
        if (!(milliseconds >= 0)) return this.#violated('a drain that cannot be read')
        return this.#owner.draining(milliseconds)
    }

    #text(text) {
        const reply = this.#requests.size > 0 && text.startsWith('{') ? parseJSON(text) : undefined
        const request = this.#requests.get(reply?.id)
        if (request === undefined || !('result' in reply || reply.error)) return this.#owner.text(text)
        this.#requests.delete(reply.id)
        if (!reply.error) return request.resolve(reply.result)
        return request.reject(new RelayError(reply.error.code, reply.error.message, reply.error.data))
    }

    // Asking

    request(instruction, parameters) {
        return new Promise((resolve, reject) => {
            const id = this.#nextRequest++
            this.send(JSON.stringify({ id, instruction, parameters }))
            this.#requests.set(id, { resolve, reject })
        })
    }

    open(server, port, { signal, ...given }) {
        return new Promise((resolve, reject) => {
            signal?.throwIfAborted()
            if (this.#nextNumber > 0xffffffff) throw new RelayError('limit', 'the connection has no numbers left')
            const options = { ...this.#options, ...given }
            const payload = encoder.encode(JSON.stringify({ server, port, credit: options.credit }))
            const flow = this.#add(this.#nextNumber, options)
            this.#nextNumber += 2
            const aborted = () => {
                reject(signal.reason)
                flow.abort(1000, '')
            }
            signal?.addEventListener('abort', aborted)
            const settle = (answer) => {
                signal?.removeEventListener('abort', aborted)
                answer()
            }
            flow.face = {
                opened: () => settle(() => resolve(new Channel(this.#endpoint, flow, { server, port }))),
                over: (code, reason) => settle(() => reject(new RelayError(code, reason))),
            }
            this.send(frame(OPEN, flow.number, payload))
        })
    }

    /** The channel that a script opens, or has opened, under this number. */
    expect(number) {
        const hasBeen = this.#expected.get(number)?.isWanted ?? this.flows.has(number)
        if (!Number.isInteger(number) || number % 2 !== 0 || number <= 0 || hasBeen) {
            return Promise.reject(new RangeError(`${number} is no number of a channel to come`))
        }
        const expected = this.#expectation(number)
        expected.isWanted = true
        if (expected.hasCome) this.#expected.delete(number)
        return expected.promise
    }

    #expectation(number) {
        const existing = this.#expected.get(number)
        if (existing !== undefined) return existing
        const expected = { isWanted: false, hasCome: false }
        expected.promise = new Promise((resolve, reject) => Object.assign(expected, { resolve, reject }))
        expected.promise.catch(() => {})  // Perhaps nobody asks for it.
        this.#expected.set(number, expected)
        return expected
    }

    #add(number, options) {
        const flow = new Flow(this, number, options)
        this.flows.set(number, flow)
        return flow
    }
}

// MARK: Link

let start
let wireOf
let leave

/** A connection that lasts: when it breaks, another takes its place, unless the close code says that it should not. */
class Link extends EventTarget {
    #endpoint
    #path
    #options
    #incoming
    /** The one in use. */
    #wire
    /** With those before it, of a relay that drains, which serve their channels until they are closed, and the next. */
    #wires = new Set()
    #openedAt = 0
    #failures = 0
    #isClosed = false
    #isConnecting = false
    #wake = () => {}

    static {
        start = (link) => link.#connect()
        wireOf = (link) => link.#current()
        leave = (link, reason) => link.#wire?.lost(4000, reason)
    }

    constructor(endpoint, path, options, incoming) {
        super()
        this.#endpoint = endpoint
        this.#path = path
        this.#options = options
        this.#incoming = incoming
    }

    /** As of a WebSocket; CONNECTING also while it connects again. */
    get readyState() {
        if (this.#isClosed) return CLOSED
        return this.#wire === undefined ? CONNECTING : OPENED
    }

    send(text) { this.#current().send(String(text)) }

    async invoke(name, ...parameters) {
        const isNamed = parameters.length === 1 && Object.prototype.toString.call(parameters[0]) === '[object Object]'
        if (parameters.length === 0) return this.#current().request(name)
        return this.#current().request(name, isNamed ? parameters[0] : parameters)
    }

    async channel(number) { return this.#current().expect(number) }

    close() {
        this.#wake()
        this.#finish(1000, '')
        for (const wire of this.#wires) wire.lost(1000, '')
    }

    #current() {
        if (this.#wire === undefined) throw new RelayError('unavailable', 'there is no connection to the relay')
        return this.#wire
    }

    /** Makes a connection and puts it in the place of the one before. */
    async #connect() {
        const { credential } = this.#options
        const token = typeof credential === 'function' ? await credential() : credential
        if (this.#isClosed) throw new RelayError(1000, 'closed')
        await new Promise((resolve, reject) => {
            const wire = new Wire(this.#endpoint, this.#path, this.#options, token, {
                opened: () => {
                    this.#opened(wire)
                    resolve()
                },
                failed: (error) => {
                    this.#wires.delete(wire)
                    reject(error)
                },
                text: (data) => this.dispatchEvent(new MessageEvent('message', { data })),
                incoming: this.#incoming,
                draining: (milliseconds) => this.#draining(wire, milliseconds),
                lost: (code, reason) => this.#lost(wire, code, reason),
            })
            this.#wires.add(wire)
        })
    }

    #opened(wire) {
        this.#wire = wire
        this.#openedAt = performance.now()
        this.dispatchEvent(new Event('open'))
    }

    #lost(wire, code, reason) {
        this.#wires.delete(wire)
        if (wire !== this.#wire) return
        this.#wire = undefined
        if (FINAL_CODES.has(code)) return void this.#finish(code, reason)
        this.#failures = performance.now() - this.#openedAt < STABLE_AFTER ? this.#failures + 1 : 0
        if (this.#isConnecting) this.#wake()
        else this.#reconnect(this.#pause(), new RelayError(code, reason))
    }

    /** The relay asks for another connection before it closes this one, and asks all others at the same time. */
    #draining(wire, milliseconds) {
        if (wire !== this.#wire) return
        this.#tell('drain', { milliseconds })
        this.#reconnect(Math.random() * milliseconds / 2)
    }

    async #reconnect(delay, error) {
        if (this.#isConnecting) return
        this.#isConnecting = true
        for (let isDone = false; !isDone && !this.#isClosed;) {
            if (this.#wire === undefined) this.#tell('reconnecting', { delay, error })
            await this.#sleep(delay)
            try {
                if (!this.#isClosed) await this.#connect()
                isDone = true
            } catch (failure) {
                error = failure
                this.#failures += 1
                delay = this.#pause()
            }
        }
        this.#isConnecting = false
    }

    /** Twice as long after each failure, and random, so that not all come back at once. */
    #pause() {
        const { minimumDelay, maximumDelay } = this.#options
        return Math.min(minimumDelay * 2 ** this.#failures, maximumDelay) * (0.5 + Math.random() / 2)
    }

    /** Until the time has passed, there is a network again, or it is woken. */
    async #sleep(milliseconds) {
        let timer
        await new Promise((resolve) => {
            this.#wake = resolve
            timer = setTimeout(resolve, milliseconds)
            globalThis.addEventListener?.('online', resolve)
        })
        clearTimeout(timer)
        globalThis.removeEventListener?.('online', this.#wake)
    }

    #finish(code, reason) {
        if (this.#isClosed) return
        this.#isClosed = true
        this.dispatchEvent(new CloseEvent('close', { code, reason, wasClean: code === 1000 }))
    }

    #tell(type, fields) { this.dispatchEvent(Object.assign(new Event(type), fields)) }
}

handlerProperties(Link, ['open', 'message', 'reconnecting', 'drain', 'close'])

// MARK: What people hold

let installed

/** A server: the name that is registered, for as long as this is not closed. */
export class Registration extends Link {
    #handler
    #installed
    #wasInstalled = false

    constructor(endpoint, server, { ports, through, ...options }, handler) {
        const path = through === undefined ? registrationPath(server, ports) : ''
        super(endpoint, path, options, (channel) => this.#serve(channel))
        this.#handler = handler
        this.server = server
        if (through === undefined) return
        // Each connection anew. Whom the script refuses it closes, and the code says whether to come back.
        this.addEventListener('open', () => {
            this.#installed = this.invoke(through, ...(ports === undefined ? [server] : [server, portsText(ports)]))
            // Where that fails later, as before the script is loaded again, another connection asks after a pause.
            this.#installed.catch((error) => this.#wasInstalled && leave(this, error.message))
        })
    }

    static {
        installed = async (registration) => {
            try {
                await registration.#installed
                registration.#wasInstalled = true
            } catch (error) {
                registration.close()
                throw error
            }
        }
    }

    async #serve(channel) {
        try {
            await this.#handler(channel)
            channel.accept()
        } catch (error) {
            const isCode = Number.isInteger(error?.code) && error.code > 0 && error.code <= 0xffff
            const isDeliberate = error instanceof RelayError && isCode && channel.readyState === CONNECTING
            if (isDeliberate) return channel.reject(error.code, error.message)
            if (channel.readyState === CONNECTING) channel.reject(500, 'the server failed')
            else channel.close(4000, 'the server failed')
            const event = Object.assign(new Event('error', { cancelable: true }), { error, channel })
            if (this.dispatchEvent(event)) console.error(error)
        }
    }
}

handlerProperties(Registration, ['error'])

export class Relay extends Link {
    #endpoint
    #options
    #registrations = new Set()

    static async open(url, options = {}) {
        const { WebSocket, ...others } = { ...DEFAULTS, ...options }
        const relay = new Relay(new Endpoint(url, WebSocket), others)
        await start(relay)
        return relay
    }

    constructor(endpoint, options) {
        super(endpoint, '', options, (channel) => channel.reject(404, 'this connection is no server'))
        this.#endpoint = endpoint
        this.#options = options
    }

    async connect(server, port = 0, options = {}) {
        if (port !== null && typeof port === 'object') return this.connect(server, 0, port)
        checkServer(server)
        if (!Number.isInteger(port) || port < 0 || port > 0xffff) throw new RangeError(`${port} is no port`)
        return wireOf(this).open(server, port, options)
    }

    async listen(server, options, handler) {
        if (typeof options === 'function') return this.listen(server, {}, options)
        if (typeof handler !== 'function') throw new TypeError('a server needs a function that takes its channels')
        const registration = new Registration(this.#endpoint, server, { ...this.#options, ...options }, handler)
        await start(registration)
        await installed(registration)
        this.#registrations.add(registration)
        registration.addEventListener('close', () => this.#registrations.delete(registration))
        if (this.readyState === CLOSED) registration.close()
        return registration
    }

    close() {
        super.close()
        for (const registration of this.#registrations) registration.close()
    }
}

/** What the relay takes for the id of a server. */
function checkServer(server) {
    const isName = typeof server === 'string' && server !== '' && encoder.encode(server).length <= 255
    if (!isName && !Number.isSafeInteger(server)) throw new RangeError(`${server} cannot be the id of a server`)
}

/** In a path digits are a number, all else is a name, and what a URL takes for a way up is neither. */
function serverSegment(server) {
    checkServer(server)
    if (typeof server === 'number' ? server < 0 : /^(\.|\.\.|0|[1-9]\d*)$/.test(server)) {
        throw new RangeError(`${server} cannot be the id of a server that is registered by a path`)
    }
    return encodeURIComponent(server)
}

function registrationPath(server, ports) {
    return `/s/${serverSegment(server)}${ports === undefined ? '' : `?ports=${portsText(ports)}`}`
}

function portsText(ports) {
    const text = [ports].flat().map((port) => Array.isArray(port) ? port.join('-') : port).join(',')
    if (!/^[\d,-]+$/.test(text)) throw new RangeError(`${JSON.stringify(ports)} are no ports`)
    return text
}
