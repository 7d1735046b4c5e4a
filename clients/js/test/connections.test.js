import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Relay, RelayError } from '../relay.js'
import {
    TYPES, accept, close, fakeWebSockets, frame, open, openChannel, openRelay, openServer, reject, settled,
} from './fake.js'

const opened = { server: 'box', port: 22, remoteAddress: '192.0.2.1', metadata: { a: 1 }, credit: 100, ticket: 't+1' }

// Where to

test('the credential is a subprotocol, and the path is the relay\'s', async () => {
    for (const [url, path] of [
        ['ws://relay.test', 'ws://relay.test/'], ['https://relay.test/#x', 'wss://relay.test/'],
        ['wss://relay.test/app/x/', 'wss://relay.test/app/x'], ['http://relay.test/app/x?a=1', 'ws://relay.test/app/x?a=1'],
    ]) {
        const { FakeWebSocket, sockets } = fakeWebSockets()
        const opening = Relay.open(url, { WebSocket: FakeWebSocket, credential: async () => 'id.secret' })
        await settled()
        assert.equal(sockets[0].url, path)
        assert.deepEqual(sockets[0].protocols, ['relay.v1', 'bearer.id.secret'])
        sockets[0].opened()
        const relay = await opening
        const registering = relay.listen('a b/c', { ports: '1,2' }, () => {})
        await settled()
        assert.equal(sockets[1].url, `${path.replace(/\/?(\?.*)?$/, '/s/a%20b%2Fc$1')}${path.includes('?') ? '&' : '?'}ports=1,2`)
        sockets[1].opened()
        await registering
        relay.close()
    }
})

test('without a credential none is sent, and without a WebSocket there is an explanation', async () => {
    const { sockets } = await openRelay({ credential: undefined })
    assert.deepEqual(sockets[0].protocols, ['relay.v1'])
    await assert.rejects(Relay.open('ws://relay.test', { WebSocket: undefined }), /--experimental-websocket/)
})

test('a relay that cannot be reached, says nothing, or speaks something else is an error', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    for (const [happens, code] of [
        [(socket) => socket.closed(1006), 1006], [(socket) => socket.onerror({}), 1006], [() => t.mock.timers.tick(15000), 1006],
        [(socket) => socket.opened(''), 1010],
    ]) {
        const { FakeWebSocket, sockets } = fakeWebSockets()
        const opening = Relay.open('ws://relay.test', { WebSocket: FakeWebSocket })
        await settled()
        happens(sockets[0])
        await assert.rejects(opening, (error) => error instanceof RelayError && error.code === code && error.message !== '')
        assert.notEqual(sockets[0].closedWith, undefined)
        t.mock.timers.tick(100000)
        await settled()
        assert.equal(sockets.length, 1)
    }
})

// Requests

test('a request is answered by the reply with its id', async () => {
    const { relay, socket } = await openRelay()
    const heard = []
    relay.onmessage = ({ data }) => heard.push(data)
    const replies = [relay.invoke('a'), relay.invoke('b', 1, null), relay.invoke('c', { x: 1 }), relay.invoke('d', [1])]
    const failure = assert.rejects(replies[2], { name: 'RelayError', code: 'not_found', message: 'no', data: { y: 2 } })
    await settled()
    assert.deepEqual(socket.sent(), [
        { id: 1, instruction: 'a' }, { id: 2, instruction: 'b', parameters: [1, null] },
        { id: 3, instruction: 'c', parameters: { x: 1 } }, { id: 4, instruction: 'd', parameters: [[1]] },
    ])
    socket.receive(
        'text', '{"id":9,"result":1}', '{"id":1}', '{', '{"id":2,"result":null}', '{"id":1,"result":[1]}',
        '{"id":3,"error":{"code":"not_found","message":"no","data":{"y":2}}}', '{"id":4,"result":false}', '{"id":4,"result":"twice"}')
    assert.deepEqual(await Promise.all([replies[0], replies[1], replies[3]]), [[1], null, false])
    await failure
    assert.deepEqual(heard, ['text', '{"id":9,"result":1}', '{"id":1}', '{', '{"id":4,"result":"twice"}'])
    relay.send('as it is')
    await assert.rejects(relay.invoke('e', 1n), TypeError)
})

// Servers

test('a server offers ports and accepts by default', async () => {
    let channel
    const { server } = await openServer((given) => { channel = given })
    assert.deepEqual([server.url, server.protocols], [
        'ws://relay.test/s/box?ports=22,80-90', ['relay.v1', 'bearer.id.secret']])
    server.receive(open(2, opened))
    assert.deepEqual(
        [channel.server, channel.port, channel.remoteAddress, channel.metadata, channel.readyState],
        ['box', 22, '192.0.2.1', { a: 1 }, 0])
    await settled()
    assert.deepEqual([server.sent(), channel.readyState], [[{ type: 'accept', channel: 2, bytes: 262144 }], 1])
    channel.send('a'.repeat(101))
    assert.deepEqual(server.sent().map(({ data }) => data.length), [100])
})

test('a handler rejects, fails, or takes its time', async (t) => {
    const logged = t.mock.method(console, 'error', () => {})
    const failures = []
    let release
    const { server, registration } = await openServer(async (channel) => {
        switch (channel.port) {
        case 1: return channel.reject(403, 'not you')
        case 2: throw new RelayError(429, 'later')
        case 3: throw new Error('secret')
        case 4: await new Promise((resolve) => { release = resolve }); break
        case 5: channel.send('at once'); throw new Error('after that')
        case 6: return channel.reject()
        default: throw new RelayError('word')
        }
    })
    registration.onerror = (event) => {
        failures.push(event.error.message)
        if (event.channel.port === 3) event.preventDefault()
    }
    for (let port = 1; port <= 7; port += 1) server.receive(open(2 * port, { ...opened, port }))
    await settled()
    assert.deepEqual(server.sent().sort((a, b) => a.channel - b.channel), [
        { type: 'reject', channel: 2, code: 403, reason: 'not you' },
        { type: 'reject', channel: 4, code: 429, reason: 'later' },
        { type: 'reject', channel: 6, code: 500, reason: 'the server failed' },
        { type: 'accept', channel: 10, bytes: 262144 },
        { type: 'text', channel: 10, data: 'at once' },
        { type: 'close', channel: 10, code: 4000, reason: 'the server failed' },
        { type: 'reject', channel: 12, code: 403, reason: '' },
        { type: 'reject', channel: 14, code: 500, reason: 'the server failed' },
    ])
    assert.deepEqual(failures, ['secret', 'after that', 'code word'])
    assert.equal(logged.mock.callCount(), 2)
    release()
    await settled()
    assert.deepEqual(server.sent(), [{ type: 'accept', channel: 8, bytes: 262144 }])
})

test('a client that has gone meanwhile is not answered', async () => {
    let release
    const { server } = await openServer(() => new Promise((resolve) => { release = resolve }))
    server.receive(open(2, opened), close(2, 504, 'too late'))
    release()
    await settled()
    assert.deepEqual(server.sent(), [])
})

test('a client can get a WebSocket of its own', async () => {
    const made = []
    const { server, sockets } = await openServer((channel) => made.push(channel.dedicated(['chat'])))
    server.receive(open(2, opened), open(4, opened))
    await settled()
    assert.deepEqual(sockets.slice(2), made)
    assert.deepEqual([made[0].url, made[0].protocols], ['ws://relay.test/a/t%2B1', ['chat']])
    made[0].opened('chat')
    made[0].closed(1000)
    made[1].closed(1006)
    assert.deepEqual(server.sent(), [{ type: 'reject', channel: 4, code: 502, reason: 'no dedicated connection' }])
    server.receive(close(4, 504))
    assert.equal(server.readyState, 1)
})

test('too many channels are rejected, and so is one for a connection that is no server', async () => {
    const { server, socket } = await openServer(() => {})
    for (let index = 1; index <= 4097; index += 1) server.receive(open(2 * index, opened))
    assert.deepEqual(server.sent().filter(({ type }) => type === 'reject').map(({ code }) => code), [503])
    socket.receive(open(2, opened))
    assert.deepEqual(socket.sent(), [{ type: 'reject', channel: 2, code: 404, reason: 'this connection is no server' }])
})

test('ids and ports that a path cannot say are refused', async () => {
    const { relay, sockets } = await openRelay()
    for (const server of ['', '.', '..', '0', '17', -1, 1.5, null, undefined, {}]) {
        await assert.rejects(relay.listen(server, () => {}), RangeError)
    }
    for (const ports of ['', 'a', '1&x=y', [], [{}]]) {
        await assert.rejects(relay.listen('box', { ports }, () => {}), RangeError)
    }
    await assert.rejects(relay.listen('box', {}), TypeError)
    assert.equal(sockets.length, 1)
})

// Hostile relays

for (const [name, ...messages] of [
    ['a frame shorter than its head', new ArrayBuffer(4)],
    ['an empty frame', new ArrayBuffer(0)],
    ['an unknown type', frame(0x02, 0)],
    ['an unknown type under a channel', frame(0x7f, 1)],
    ['data for channel 0', frame('binary', 0)],
    ['data for a channel that never was', frame('binary', 7)],
    ['data for a channel that the relay never opened', frame('text', 2)],
    ['credit for a channel that never was', frame('credit', 7, [1, 4])],
    ['a short credit', frame('credit', 1, [1, 2])],
    ['a long credit', frame('credit', 1, [1, 4], [1, 1])],
    ['a short close', frame('close', 1, [1, 1])],
    ['a short accept', frame('accept', 3)],
    ['an accept for a channel that never was', accept(9, 1)],
    ['a second accept', accept(1, 1)],
    ['a reject after the accept', reject(1, 404)],
    ['an open under an odd number', open(5, opened)],
    ['an open under 0', open(0, opened)],
    ['an open twice', open(2, opened), open(2, opened)],
    ['an open that is no JSON', frame('open', 2, '{')],
    ['an open that is no object', frame('open', 2, 'null')],
    ['a drain that is no object', frame('drain', 0, '5')],
    ['a drain without a time', frame('drain', 0, '{}')],
    ['a drain in the past', frame('drain', 0, '{"reconnectInMilliseconds":-1}')],
    ['a drain of a channel', frame('drain', 1, '{"reconnectInMilliseconds":1}')],
    ['a pong of a channel', frame('pong', 1)],
]) {
    test(`${name} ends the connection for good`, async () => {
        const { relay, socket } = await openChannel()
        const ends = []
        relay.onclose = ({ code }) => ends.push(code)
        socket.receive(...messages)
        assert.deepEqual([ends, relay.readyState, socket.closedWith.code], [[1002], 3, 4000])
    })
}

test('whatever comes, it is an event, an answer or the end, and never an exception', async (t) => {
    t.mock.method(console, 'error', () => {})
    let seed = 1
    const random = (below) => {
        seed = (seed * 1103515245 + 12345) % 2 ** 31
        return Math.floor(seed / 2 ** 31 * below)
    }
    for (let round = 0; round < 300; round += 1) {
        const { socket, channel } = await openChannel(random(100))
        channel.onmessage = () => { if (random(4) === 0) channel.send('x'.repeat(random(100))) }
        for (let count = 0; count < 60; count += 1) {
            const types = Object.values(TYPES)
            const type = random(20) === 0 ? random(256) : types[random(types.length)]
            const payload = Buffer.from(Array.from({ length: random(9) }, () => random(256)))
            socket.receive(frame(type, random(20) === 0 ? random(2 ** 32) : random(4), payload))
            if (random(50) === 0) socket.receive(String.fromCharCode(...payload))
        }
        socket.closed(4007)
    }
})

test('the port is 0 unless another is given', async () => {
    const { relay, socket } = await openRelay()
    relay.connect('box').catch(() => {})
    relay.connect('box', { credit: 7 }).catch(() => {})
    relay.connect('box', 5, { credit: 8 }).catch(() => {})
    await settled()
    assert.deepEqual(
        socket.sent().map(({ port, credit }) => [port, credit]), [[0, 262144], [0, 7], [5, 8]])
})
