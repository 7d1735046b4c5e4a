// The types of relay.js, and what each call does.

/** The id of a server: a name, or a number from 0. A name of digits alone is not possible: it is a number. */
export type ServerID = string | number

/** Ports of a server, 0 to 65535: `22`, `[22, 80, [90, 99]]`, `'22,80,90-99'`. */
export type Ports = number | string | (number | [first: number, last: number])[]

export interface ChannelOptions {
    /** How many bytes the other end may send before they have been read. Default: 262 144. */
    credit?: number
    /** A longer message that is put together for a `message` event or `readable` closes the channel with 4006.
     * `bytes` has no such limit. Default: 16 MiB. */
    maximumMessageBytes?: number
}

export interface RelayOptions extends ChannelOptions {
    /** Goes as a subprotocol, so that it is in no log; a function is asked for each connection. */
    credential?: string | (() => string | Promise<string>)
    /** What opens WebSockets, where there is no global one (Node 20), or where another is wanted. */
    WebSocket?: new (url: string, protocols?: string[]) => WebSocket
    /** How often a connection is asked whether it lives; two intervals of silence end it. Default: 15 000 ms. */
    pingInterval?: number
    /** How long a connection may take to be there. Default: 15 000 ms. */
    connectTimeout?: number
    /** The pause before the first attempt to connect again, and the longest one. Default: 500 and 30 000 ms. */
    minimumDelay?: number
    maximumDelay?: number
}

export interface ListenOptions extends ChannelOptions {
    /** What is offered; all where this is left out. */
    ports?: Ports
    /** The instruction that makes this connection the server, where a script decides who may be one; it gets the name,
     * and `ports` where there are any. `listen` rejects where it fails, or closes the connection. */
    through?: string
}

export interface ConnectOptions extends ChannelOptions {
    signal?: AbortSignal
}

/** Why something failed. `code` is a close code or HTTP status where the relay or the other end closed or rejected
 * something, and a word (`relayd explain` knows them) for a request. */
export class RelayError extends Error {
    constructor(code: number | string, message?: string, data?: unknown)
    readonly code: number | string
    readonly data?: unknown
}

interface LinkEventMap {
    /** There is a connection: the first, or another after one was lost. */
    open: Event
    /** A text that is no reply: what a script sends. */
    message: MessageEvent<string>
    /** There is no connection; the next attempt is in `delay` milliseconds. */
    reconnecting: Event & { delay: number, error: RelayError }
    /** The relay will close the connection within `milliseconds`. A new one is made before; channels of the old one
     * go on until it is closed. */
    drain: Event & { milliseconds: number }
    /** It is over: closed by `close()`, or with a code that says not to come back. */
    close: CloseEvent
}

/** A connection to the relay that lasts. When it breaks, its channels and requests end with it, and another is made,
 * after a random pause that grows; unless the close code says not to. */
declare class Link<Events extends LinkEventMap = LinkEventMap> extends EventTarget {
    protected constructor()
    /** As of a WebSocket: 0 also while it connects again, 1, or 3. */
    readonly readyState: number
    /** Invokes an instruction. A single parameter that is a plain object is passed as named parameters. */
    invoke<Result = unknown>(name: string, ...parameters: unknown[]): Promise<Result>
    /** Sends a text as it is: an instruction message, or what a script makes of it. */
    send(text: string): void
    /** The channel that a script makes with `relay.connect(conn, …)`, which returned this number. */
    channel(number: number): Promise<Channel>
    close(): void

    onopen: ((event: Events['open']) => unknown) | null
    onmessage: ((event: Events['message']) => unknown) | null
    onreconnecting: ((event: Events['reconnecting']) => unknown) | null
    ondrain: ((event: Events['drain']) => unknown) | null
    onclose: ((event: Events['close']) => unknown) | null
    addEventListener<Type extends keyof Events>(
        type: Type, listener: (event: Events[Type]) => unknown, options?: boolean | AddEventListenerOptions): void
    addEventListener(
        type: string, listener: EventListenerOrEventListenerObject | null,
        options?: boolean | AddEventListenerOptions): void
}

export class Relay extends Link {
    private constructor()

    /** Connects. `url` is the relay's (`wss://…` or `https://…`), with `/app/NAME` for an app. Rejects where the first
     * attempt fails; later ones are repeated. */
    static open(url: string | URL, options?: RelayOptions): Promise<Relay>

    /** Connects to a port of a server, 0 unless another is given. Rejects with a `RelayError` that says why not. */
    connect(server: ServerID, port?: number, options?: ConnectOptions): Promise<Channel>
    connect(server: ServerID, options: ConnectOptions): Promise<Channel>

    /** Becomes a server, over a connection of its own that registers again when it has been lost. `handler` gets each
     * channel. It is accepted when the handler returns, when its promise resolves, or when the channel is first sent to
     * or read as a stream, whichever comes first; and rejected when the handler throws before. */
    listen(server: ServerID, options: ListenOptions, handler: (channel: Channel) => unknown): Promise<Registration>
    listen(server: ServerID, handler: (channel: Channel) => unknown): Promise<Registration>

    /** Closes the connection, and those of all registrations. */
    close(): void
}

interface RegistrationEventMap extends LinkEventMap {
    /** A handler has thrown something that was no RelayError. It is logged unless this is prevented. */
    error: Event & { error: unknown, channel: Channel }
}

export class Registration extends Link<RegistrationEventMap> {
    private constructor()
    readonly server: ServerID
    onerror: ((event: RegistrationEventMap['error']) => unknown) | null
}

interface ChannelEventMap {
    open: Event
    /** A text is a string, a binary message what `binaryType` says. */
    message: MessageEvent<any>
    /** The other end sends nothing more; it may still be sent to. */
    end: Event
    error: Event
    close: CloseEvent
}

/** One client–server pairing. It is like a WebSocket, and can be read and written as streams as well.
 *
 * It is read in one of three ways, and the first use decides: `message` events, `readable`, or `bytes`. What nobody has
 * asked for yet waits, and the other end can send no more than its credit. */
export class Channel extends EventTarget {
    static readonly CONNECTING: 0
    static readonly OPEN: 1
    static readonly CLOSING: 2
    static readonly CLOSED: 3
    private constructor()

    /** What the client asked for; undefined for a channel that a script has made. */
    readonly server: ServerID
    readonly port: number
    /** Of the client; at the server only. */
    readonly remoteAddress?: string
    /** What a script has added to the open, else null. */
    readonly metadata: any

    readonly readyState: number
    /** Bytes that wait for credit or for their turn. */
    readonly bufferedAmount: number
    /** `arraybuffer`, unless it is set to `blob`. */
    binaryType: BinaryType

    /** At the server: accepts before the handler returns. */
    accept(): void
    /** At the server, in place of `accept`. A code from 400 to 599 is the HTTP status that a clean client gets. */
    reject(code?: number, reason?: string): void
    /** At the server, in place of `accept`: opens a WebSocket for this client alone, whose messages are the channel's.
     * It is not open yet, and this object is closed without an event. */
    dedicated(protocols?: string[]): WebSocket

    /** Sends a message. What cannot leave yet is queued, with no limit but that of memory: look at `bufferedAmount`, or
     * use `writable`. */
    send(data: string | ArrayBuffer | ArrayBufferView | Blob): void
    /** Says that nothing more is sent from here, behind what is queued; resolves when that has left. Once both ends have
     * said so, the channel is over. */
    end(): Promise<void>
    /** Ends both directions, behind what is queued. `code` is 1000 or from 3000 to 4999. */
    close(code?: number, reason?: string): void

    /** Messages: a string for a text, else bytes. Only as much is received as is read. It ends when the other end does,
     * and fails with a `RelayError` when the channel ends in another way than with 1000. */
    readonly readable: ReadableStream<string | Uint8Array>
    /** The bytes of all messages as they come, however long. */
    readonly bytes: ReadableStream<Uint8Array>
    /** `for await (const message of channel)` reads `readable`. */
    [Symbol.asyncIterator](): AsyncGenerator<string | Uint8Array, void>
    /** Each chunk is a message; a write is done when it has left. Closing it is `end()`. */
    readonly writable: WritableStream<string | ArrayBuffer | ArrayBufferView | Blob>

    onopen: ((event: Event) => unknown) | null
    onmessage: ((event: MessageEvent) => unknown) | null
    onend: ((event: Event) => unknown) | null
    onerror: ((event: Event) => unknown) | null
    onclose: ((event: CloseEvent) => unknown) | null
    addEventListener<Type extends keyof ChannelEventMap>(
        type: Type, listener: (event: ChannelEventMap[Type]) => unknown,
        options?: boolean | AddEventListenerOptions): void
    addEventListener(
        type: string, listener: EventListenerOrEventListenerObject | null,
        options?: boolean | AddEventListenerOptions): void
}
