import assert from 'node:assert/strict'
import { test } from 'node:test'
import { frame, open, openChannel, openRelay, openServer, settled } from './fake.js'

const opened = { server: 'box', port: 22, remoteAddress: '192.0.2.1', metadata: null, credit: 100, ticket: 't' }

/** Timers that the test moves, and a random number that is always the same. */
function controlTime(t) {
    t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
    t.mock.method(Math, 'random', () => 0.5)
    return async (milliseconds) => {
        t.mock.timers.tick(milliseconds)
        await settled()
    }
}

function record(link) {
    const events = []
    link.onopen = () => events.push('open')
    link.onreconnecting = ({ delay, error }) => events.push([delay, error.code])
    link.ondrain = ({ milliseconds }) => events.push(['drain', milliseconds])
    link.onclose = ({ code, reason, wasClean }) => events.push(['close', code, reason, wasClean])
    return events
}

for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 4003, 4004, 4006, 4008, 4999]) {
    test(`after ${code} it connects again`, async (t) => {
        const pass = controlTime(t)
        const { relay, socket, sockets } = await openRelay()
        const events = record(relay)
        socket.closed(code, 'why')
        assert.deepEqual([relay.readyState, events], [0, [[750, code]]])
        await assert.rejects(relay.invoke('a'), { code: 'unavailable' })
        await pass(749)
        assert.equal(sockets.length, 1)
        await pass(1)
        sockets[1].opened()
        await settled()
        assert.deepEqual([relay.readyState, events.at(-1)], [1, 'open'])
    })
}

for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 1010, 4001, 4002, 4005, 4007]) {
    test(`after ${code} it does not`, async (t) => {
        const pass = controlTime(t)
        const { relay, socket, sockets } = await openRelay()
        const events = record(relay)
        socket.closed(code, 'why')
        await pass(1e6)
        assert.deepEqual([relay.readyState, sockets.length], [3, 1])
        assert.deepEqual(events, [['close', code, 'why', code === 1000]])
    })
}

test('pauses double up to the longest', async (t) => {
    const pass = controlTime(t)
    const { relay, socket, sockets } = await openRelay({ minimumDelay: 100, maximumDelay: 1000 })
    const events = record(relay)
    socket.closed(1006)
    for (let failure = 1; failure <= 6; failure += 1) {
        await pass(1000)
        assert.equal(sockets.length, failure + 1)
        sockets.at(-1).closed(1006)
        await settled()
    }
    assert.deepEqual(events.map(([delay]) => delay), [150, 300, 600, 750, 750, 750, 750])
})

test('a credential is asked for each time, and one that cannot be had is tried again', async (t) => {
    const pass = controlTime(t)
    let count = 0
    const credential = () => {
        count += 1
        if (count === 2) throw new Error('offline')
        return `token${count}`
    }
    const { socket, sockets, relay } = await openRelay({ credential })
    const events = record(relay)
    socket.closed(1006)
    await pass(1000)
    assert.equal(events.at(-1)[0], 1500)
    await pass(1500)
    assert.deepEqual(sockets.map(({ protocols }) => protocols[1]), ['bearer.token1', 'bearer.token3'])
})

test('a server registers again and serves', async (t) => {
    const pass = controlTime(t)
    const served = []
    const { server, sockets, registration } = await openServer((channel) => served.push(channel))
    const events = record(registration)
    server.receive(open(2, opened))
    server.closed(1012, 'drain')
    assert.equal(served[0].readyState, 3)
    await pass(1000)
    assert.equal(sockets.at(-1).url, server.url)
    sockets.at(-1).opened().receive(open(2, opened))
    await settled()
    assert.deepEqual(served.map(({ readyState }) => readyState), [3, 1])
    assert.equal(events.at(-1), 'open')
})

test('the first attempt of a server is not repeated', async (t) => {
    const pass = controlTime(t)
    const { relay, sockets } = await openRelay()
    const registering = relay.listen('box', () => {})
    await settled()
    sockets[1].closed(1006)
    await assert.rejects(registering, { code: 1006 })
    await pass(1e6)
    assert.equal(sockets.filter(({ url }) => url.includes('/s/')).length, 1)
})

test('close is the end, of servers as well, and of whatever is under way', async (t) => {
    const pass = controlTime(t)
    const { relay, sockets, server, registration } = await openServer(() => {})
    const events = [record(relay), record(registration)]
    server.closed(1006)
    await pass(1000)
    assert.equal(sockets.length, 3)
    relay.close()
    relay.close()
    await pass(1e6)
    assert.deepEqual(events, [
        [['close', 1000, '', true]], [[1500 / 2, 1006], ['close', 1000, '', true]]])
    assert.deepEqual([sockets.length, relay.readyState, registration.readyState], [3, 3, 3])
    assert.ok([sockets[0], sockets[2]].every(({ closedWith }) => closedWith.code === 1000))
})

test('a server that is registered when its relay has been closed is closed, too', async () => {
    const { relay, sockets } = await openRelay()
    const registering = relay.listen('box', () => {})
    await settled()
    relay.close()
    sockets[1].opened()
    assert.equal((await registering).readyState, 3)
})

// Half-open connections

test('a connection that is silent for two intervals is given up', async (t) => {
    const pass = controlTime(t)
    const { relay, socket, sockets } = await openRelay({ pingInterval: 1000 })
    const events = record(relay)
    for (let count = 0; count < 3; count += 1) {
        await pass(1000)
        assert.deepEqual(socket.sent(), [{ type: 'ping', channel: 0 }])
        socket.receive(count === 1 ? 'anything' : frame('pong', 0))
    }
    await pass(1000)
    assert.deepEqual(events, [])
    await pass(1000)
    assert.deepEqual([events, socket.closedWith.code], [[[750, 1006]], 1000])
    socket.receive('too late')
    socket.closed(1006)
    await pass(750)
    assert.equal(sockets.length, 2)
})

// Draining

test('when the relay drains, another connection is made before this one is closed', async (t) => {
    const pass = controlTime(t)
    const { relay, channel, number, socket, sockets } = await openChannel()
    const events = record(relay)
    socket.receive(frame('drain', 0, '{"reconnectInMilliseconds":8000}'), frame('drain', 0, '{"reconnectInMilliseconds":1}'))
    await pass(1999)
    assert.equal(sockets.length, 1)
    await pass(1)
    const next = sockets[1].opened()
    await settled()
    socket.sent()
    channel.send('on the old one')
    relay.connect('box', 1).catch(() => {})
    await settled()
    assert.deepEqual(socket.sent(), [{ type: 'text', channel: number, data: 'on the old one' }])
    assert.equal(next.sent()[0].type, 'open')
    socket.closed(1012)
    await pass(1e4)
    assert.deepEqual([events, channel.readyState], [[['drain', 8000], ['drain', 1], 'open'], 3])
    assert.deepEqual([relay.readyState, sockets.length], [1, 2])
})

test('a draining relay that closes earlier is left at once, and one that cannot be replaced is tried again', async (t) => {
    const pass = controlTime(t)
    const early = await openRelay()
    early.socket.receive(frame('drain', 0, '{"reconnectInMilliseconds":8000}'))
    early.socket.closed(1012)
    await settled()
    assert.equal(early.sockets.length, 2)

    const later = await openRelay()
    later.socket.receive(frame('drain', 0, '{"reconnectInMilliseconds":8000}'))
    await pass(2000)
    later.sockets[1].closed(1006)
    await settled()
    assert.equal(later.relay.readyState, 1)
    await pass(1000)
    later.sockets[2].opened()
    assert.equal(later.relay.readyState, 1)
})

test('who closes leaves the draining connection, too', async (t) => {
    const pass = controlTime(t)
    const { relay, socket, sockets } = await openRelay()
    socket.receive(frame('drain', 0, '{"reconnectInMilliseconds":100}'))
    await pass(50)
    sockets[1].opened()
    relay.close()
    assert.deepEqual(sockets.map(({ closedWith }) => closedWith.code), [1000, 1000])
})

// Through an instruction

test('a server through an instruction asks again on each connection', async (t) => {
    const pass = controlTime(t)
    const { relay, sockets } = await openRelay()
    const listening = relay.listen('0', { through: 'listen', ports: [22, [80, 90]] }, () => {})
    await settled()
    const first = sockets[1].opened()
    assert.equal(first.url, 'ws://relay.test/')
    const [request] = first.sent()
    assert.deepEqual([request.instruction, request.parameters], ['listen', ['0', '22,80-90']])
    first.receive(JSON.stringify({ id: request.id, result: {} }))
    const registration = await listening
    first.closed(1006)
    await pass(1000)
    const second = sockets[2].opened()
    await settled()
    assert.deepEqual(second.sent().map(({ parameters }) => parameters), [['0', '22,80-90']])
    second.closed(4409, 'taken')
    await pass(2000)  // Whoever has the name may be its own old connection.
    assert.equal(sockets.length, 4)
    registration.close()
    assert.equal(sockets[3].closedWith.code, 1000)
})

test('a server that an instruction does not take back yet asks until it does', async (t) => {
    const pass = controlTime(t)
    const { relay, sockets } = await openRelay()
    const listening = relay.listen('box', { through: 'listen' }, () => {})
    const answers = async (socket, answer) => {
        socket.opened()
        await settled()
        socket.receive(JSON.stringify({ id: socket.sent()[0].id, ...answer }))
        await settled()
    }
    await settled()
    await answers(sockets[1], { result: {} })
    const registration = await listening
    const events = record(registration)
    sockets[1].closed(1012)
    await pass(1000)
    await answers(sockets[2], { error: { code: 'unknown_instruction', message: 'not yet' } })
    assert.deepEqual([registration.readyState, sockets[2].closedWith.code], [0, 1000])
    await pass(2000)
    await answers(sockets[3], { result: {} })
    assert.deepEqual([registration.readyState, sockets.length], [1, 4])
    assert.deepEqual(events, [[750, 1012], 'open', [1500, 4000], 'open'])
})

test('who may not be the server is told so, and does not come back', async (t) => {
    const pass = controlTime(t)
    for (const [happens, code] of [
        [(socket) => socket.closed(4409, 'taken'), 4409],
        [(socket, id) => socket.receive(JSON.stringify({ id, error: { code: 'forbidden', message: 'no' } })), 'forbidden'],
    ]) {
        const { relay, sockets } = await openRelay()
        const listening = relay.listen('box', { through: 'listen' }, () => {})
        await settled()
        const socket = sockets[1].opened()
        happens(socket, socket.sent()[0].id)
        await assert.rejects(listening, { code })
        await pass(1e6)
        assert.equal(sockets.length, 2)
    }
})
