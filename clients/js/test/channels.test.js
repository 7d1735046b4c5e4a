import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Channel, RelayError } from '../relay.js'
import { accept, close, credit, frame, openChannel, openRelay, reject, settled } from './fake.js'

const KiB = 1024

/** What a channel tells, in order. */
function record(channel) {
    const events = []
    channel.onmessage = ({ data }) => events.push(data)
    channel.onend = () => events.push('END')
    channel.onerror = () => events.push('ERROR')
    channel.onclose = ({ code, reason, wasClean }) => events.push({ code, reason, wasClean })
    return events
}

const later = () => new Promise((resolve) => setTimeout(resolve))

// Opening

test('a channel is opened under odd numbers, each once', async () => {
    const { relay, socket } = await openRelay()
    const connecting = [relay.connect('box', 22), relay.connect(0, 65535, { credit: 9 })]
    await settled()
    assert.deepEqual(socket.sent(), [
        { type: 'open', channel: 1, server: 'box', port: 22, credit: 262144 },
        { type: 'open', channel: 3, server: 0, port: 65535, credit: 9 },
    ])
    socket.receive(reject(1, 404, 'no such port'), accept(3, 7))
    await assert.rejects(connecting[0], { name: 'RelayError', code: 404, message: 'no such port' })
    const channel = await connecting[1]
    assert.deepEqual([channel.readyState, channel.server, channel.port], [Channel.OPEN, 0, 65535])
})

test('what cannot be a server or a port is refused here', async () => {
    const { relay, socket } = await openRelay()
    for (const [server, port] of [[undefined, 1], [1.5, 1], [{}, 1], ['', 1], ['ü'.repeat(128), 1], ['a', -1], ['a', 65536],
        ['a', '22'], ['a', null]]) {
        await assert.rejects(relay.connect(server, port))
    }
    for (const size of [0, -1, 1.5, 2 ** 32, '9']) await assert.rejects(relay.connect('a', 1, { credit: size }), RangeError)
    assert.deepEqual(socket.sent(), [])
})

test('an open can be given up', async () => {
    const { relay, socket } = await openRelay()
    const controller = new AbortController()
    const connecting = relay.connect('box', 22, { signal: controller.signal })
    await settled()
    controller.abort(new Error('enough'))
    await assert.rejects(connecting, { message: 'enough' })
    assert.deepEqual(socket.sent().at(-1), { type: 'close', channel: 1, code: 1000, reason: '' })
    socket.receive(accept(1, 5), frame('text', 1, 'late'))
    await assert.rejects(relay.connect('box', 22, { signal: controller.signal }), { message: 'enough' })
    assert.equal(relay.readyState, 1)
})

test('channels that a script makes are found by their numbers, in whatever order they come', async () => {
    const { relay, socket } = await openRelay()
    const waiting = [relay.channel(4), relay.channel(6)]
    await settled()
    socket.receive(accept(4, 10), reject(6, 502, 'gone'), accept(2, 20), frame('text', 2, 'early'))
    const [four, two] = [await waiting[0], await relay.channel(2)]
    await assert.rejects(waiting[1], { code: 502 })
    four.send('x')
    assert.deepEqual(socket.sent(), [{ type: 'text', channel: 4, data: 'x' }])
    const events = record(two)
    await settled()
    assert.deepEqual(events, ['early'])
    for (const number of [0, 2, 3, 4, -2, 2.5, '8']) await assert.rejects(relay.channel(number), RangeError)
})

// Sending

test('messages leave as frames of at most 16 KiB', async () => {
    const { channel, socket, number } = await openChannel()
    channel.send('')
    channel.send(Buffer.alloc(40 * KiB, 7))
    channel.send(new Uint16Array([1, 2]).subarray(1))
    channel.send('ü')
    const sent = socket.sent()
    assert.deepEqual(sent.map(({ type, data }) => [type, data.length]), [
        ['text', 0], ['binaryMore', 16 * KiB], ['binaryMore', 16 * KiB], ['binary', 8 * KiB], ['binary', 2], ['text', 1],
    ])
    assert.ok(sent.every(({ channel }) => channel === number))
    assert.deepEqual([...sent[4].data], [2, 0])
    assert.equal(sent[5].data, 'ü')
})

test('each byte uses one of credit, an empty message none, and what has none waits', async () => {
    const { channel, socket, number } = await openChannel(5)
    const data = new Uint8Array([1, 2, 3, 4, 5, 6, 7])
    channel.send(data)
    data.fill(9)
    channel.send('')
    assert.equal(channel.bufferedAmount, 2)
    assert.deepEqual(socket.sent().map(({ type, data }) => [type, [...data]]), [['binaryMore', [1, 2, 3, 4, 5]]])
    socket.receive(credit(number, 1))
    assert.equal(channel.bufferedAmount, 1)
    socket.receive(credit(number, 1))
    assert.deepEqual(
        socket.sent().map(({ type, data }) => [type, [...data]]), [['binaryMore', [6]], ['binary', [7]], ['text', []]])
    socket.receive(credit(number, 0xffffffff), credit(number, 0xffffffff))
    channel.send('more')
    assert.equal(socket.sent().at(-1).data, 'more')
})

test('channels take turns, and a WebSocket that has not sent what it has gets no more', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { relay, socket } = await openRelay()
    const connecting = [relay.connect('a', 1), relay.connect('b', 1)]
    await settled()
    socket.sent()
    socket.receive(accept(1, 1 << 30), accept(3, 1 << 30))
    const [bulk, small] = await Promise.all(connecting)
    socket.bufferedAmount = 64 * KiB
    bulk.send(Buffer.alloc(200 * KiB))
    small.send('a')
    small.send('b')
    assert.deepEqual(socket.sent(), [])
    t.mock.timers.tick(4)
    assert.deepEqual(socket.sent(), [])
    socket.bufferedAmount = 0
    t.mock.timers.tick(4)
    assert.deepEqual(socket.sent().slice(0, 5).map(({ channel }) => channel), [1, 3, 1, 3, 1])
})

test('a blob is read as it is sent', async () => {
    const { channel, socket, number } = await openChannel(300 * KiB)
    const bytes = Buffer.alloc(600 * KiB)
    for (let index = 0; index < bytes.length; index += 1) bytes[index] = index * 31 >> 8
    channel.send(new Blob([bytes]))
    channel.send('behind')
    assert.equal(channel.bufferedAmount, 600 * KiB + 6)
    const received = []
    for (let grants = 0; received.at(-1)?.type !== 'text'; grants += 1) {
        await settled()
        const sent = socket.sent()
        received.push(...sent)
        if (sent.length === 0) socket.receive(credit(number, 100 * KiB))
        assert.ok(grants < 1000)
    }
    assert.equal(received.pop().data, 'behind')
    assert.ok(received.every(({ type }, index) => type === (index < received.length - 1 ? 'binaryMore' : 'binary')))
    assert.ok(Buffer.concat(received.map(({ data }) => data)).equals(bytes))
})

// Receiving messages

test('messages are put together, and credit is granted when half has been used', async () => {
    const { channel, socket, number } = await openChannel(0, {}, { credit: 10 })
    const events = record(channel)
    socket.receive(
        frame('text', number, ''), frame('textMore', number, [0xc3, 1]), frame('textMore', number, ''),
        frame('text', number, [0xbc, 1]))
    assert.deepEqual(events, ['', 'ü'])
    assert.deepEqual(socket.sent(), [])
    socket.receive(frame('binaryMore', number, 'ab'), frame('binary', number, 'c'))
    assert.equal(events.length, 3)
    assert.deepEqual(Buffer.from(events[2]).toString(), 'abc')
    assert.deepEqual(socket.sent(), [{ type: 'credit', channel: number, bytes: 5 }])
})

test('a message that exceeds the credit comes through, since its beginning is granted again', async () => {
    const { channel, socket, number } = await openChannel(0, {}, { credit: 4 })
    channel.binaryType = 'blob'
    const events = record(channel)
    for (let index = 0; index < 50; index += 1) socket.receive(frame('binaryMore', number, 'abcd'))
    socket.receive(frame('binary', number, ''))
    assert.equal(await events[0].text(), 'abcd'.repeat(50))
    assert.equal(socket.sent().reduce((sum, { bytes }) => sum + bytes, 0), 200)
})

test('nothing is lost, and nothing granted, before somebody listens', async () => {
    const { channel, socket, number } = await openChannel(0, {}, { credit: 4 })
    socket.receive(frame('text', number, 'abcd'), close(number, 4001, 'bye'))
    await later()
    assert.deepEqual([channel.readyState, socket.sent()], [Channel.CLOSED, []])
    const events = record(channel)
    await settled()
    assert.deepEqual(events, ['abcd'])
})

test('who has just got a channel hears of its end even when it came at once', async () => {
    const { relay, socket } = await openRelay()
    const connecting = relay.connect('box', 22)
    await settled()
    socket.receive(accept(1, 1), frame('text', 1, 'a'), close(1, 3000, 'done'))
    const events = record(await connecting)
    await later()
    assert.deepEqual(events, ['a', { code: 3000, reason: 'done', wasClean: true }])
})

for (const [name, code, frames, options] of [
    ['more than the credit', 4006, [['binary', 'abcde']], { credit: 4 }],
    ['a text within a binary message', 1002, [['binaryMore', 'a'], ['text', 'b']], {}],
    ['data after end', 1002, [['end', ''], ['text', 'b']], {}],
    ['end within a message', 1002, [['textMore', 'a'], ['end', '']], {}],
    ['a second end', 1002, [['end', ''], ['end', '']], {}],
    ['a text that is not UTF-8', 1007, [['text', [[0xff, 1]]]], {}],
    ['a text that is cut in a character', 1007, [['text', [[0xc3, 1]]]], {}],
    ['a message that is too long', 4006, [['text', 'abcde']], { maximumMessageBytes: 4 }],
    ['a message that is too long in pieces', 4006, [['textMore', 'abc'], ['textMore', 'de']], { maximumMessageBytes: 4 }],
]) {
    test(`${name} closes the channel with ${code}, not the connection`, async () => {
        const { relay, channel, socket, number } = await openChannel(0, {}, options)
        const events = record(channel)
        for (const [type, payload] of frames) socket.receive(frame(type, number, ...[payload].flat()))
        const closes = socket.sent().filter(({ type }) => type === 'close')
        assert.deepEqual(closes.map((sent) => [sent.channel, sent.code]), [[number, code]])
        await later()
        assert.equal(events.at(-2), 'ERROR')
        assert.deepEqual([events.at(-1).code, events.at(-1).wasClean], [code, false])
        socket.receive(frame('text', number, 'ignored'), credit(number, 1), close(number, 1000))
        assert.deepEqual([relay.readyState, socket.closedWith], [1, undefined])
    })
}

test('what is not read uses up the credit', async () => {
    const { channel, socket, number } = await openChannel(0, {}, { credit: 4 })
    socket.receive(frame('text', number, 'abc'), frame('text', number, 'd'))
    assert.equal(channel.readyState, Channel.OPEN)
    socket.receive(frame('text', number, 'e'))
    assert.deepEqual(socket.sent().map(({ type, code }) => [type, code]), [['close', 4006]])
})

test('empty messages that nobody reads are counted', async () => {
    const { channel, socket, number } = await openChannel(0, {}, { credit: 4 })
    for (let index = 0; index < 100000; index += 1) socket.receive(frame('textMore', number, ''))
    for (let index = 0; index < 65536; index += 1) socket.receive(frame('text', number, ''))
    assert.equal(channel.readyState, Channel.OPEN)
    socket.receive(frame('text', number, ''))
    assert.equal(channel.readyState, Channel.CLOSED)
    assert.deepEqual(socket.sent().map(({ type, code }) => [type, code]), [['close', 4006]])
})

test('a message is put together from pieces of any size', async () => {
    const { channel, socket, number } = await openChannel(0)
    const events = record(channel)
    const bytes = Buffer.from(Array.from({ length: 200000 }, (_, index) => index * 31 >> 8))
    for (let start = 0, size = 1; start < bytes.length; start += size, size = size * 3 % 20011) {
        const isLast = start + size >= bytes.length
        socket.receive(frame(isLast ? 'binary' : 'binaryMore', number, bytes.subarray(start, start + size)))
    }
    assert.ok(bytes.equals(Buffer.from(events[0])))
})

test('a message in pieces of one byte takes the memory of its bytes', async () => {
    const { channel, socket, number } = await openChannel(0)
    const events = record(channel)
    const piece = frame('binaryMore', number, 'a')
    const before = process.memoryUsage().arrayBuffers
    for (let index = 0; index < 300000; index += 1) socket.receive(piece)
    assert.ok(process.memoryUsage().arrayBuffers - before < 32 << 20)
    socket.receive(frame('binary', number, ''))
    assert.equal(events[0].byteLength, 300000)
})

// The end

test('end is by half; when both have ended the channel is over', async () => {
    const { channel, socket, number } = await openChannel(3)
    const events = record(channel)
    channel.send('abcd')
    const sent = channel.end()
    assert.throws(() => channel.send('more'), { name: 'InvalidStateError' })
    assert.equal(socket.sent().at(-1).type, 'textMore')
    socket.receive(frame('text', number, 'still'), credit(number, 1))
    assert.deepEqual(socket.sent().map(({ type }) => type), ['text', 'end'])
    await sent
    assert.equal(channel.readyState, Channel.OPEN)
    socket.receive(frame('end', number))
    await later()
    assert.deepEqual(events, ['still', 'END', { code: 1000, reason: '', wasClean: true }])
    assert.deepEqual([channel.readyState, socket.sent()], [Channel.CLOSED, []])
})

test('it does not matter who ends first, nor whether anybody waits for it', async () => {
    const first = await openChannel()
    first.socket.receive(frame('end', first.number))
    assert.equal(first.channel.readyState, Channel.OPEN)
    first.channel.end()
    assert.equal(first.channel.readyState, Channel.CLOSED)

    const second = await openChannel(0)
    second.channel.send('never sent')
    second.channel.end()
    second.socket.closed(4007)
    await settled()
})

test('close leaves behind what is queued, and waits 30 s for it', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    for (const isGranted of [true, false]) {
        const { channel, socket, number } = await openChannel(1)
        channel.send('ab')
        channel.close(3001, 'reason')
        assert.deepEqual([channel.readyState, socket.sent().length], [Channel.CLOSING, 1])
        socket.receive(frame('text', number, 'ignored'))
        if (isGranted) socket.receive(credit(number, 1))
        else t.mock.timers.tick(30000)
        const sent = socket.sent()
        assert.deepEqual(sent.at(-1), { type: 'close', channel: number, code: 3001, reason: 'reason' })
        assert.equal(sent.length, isGranted ? 2 : 1)
        assert.equal(channel.readyState, Channel.CLOSED)
        channel.send('into the void')
        channel.close()
        t.mock.timers.tick(30000)
        assert.deepEqual(socket.sent().filter(({ type }) => type !== 'ping'), [])
    }
})

test('codes and reasons are those of a WebSocket', async () => {
    const { channel } = await openChannel()
    for (const code of [0, 999, 1001, 2999, 5000, '3000']) {
        assert.throws(() => channel.close(code), { name: 'InvalidAccessError' })
    }
    assert.throws(() => channel.close(3000, 'ü'.repeat(62)), { name: 'SyntaxError' })
    assert.equal(channel.readyState, Channel.OPEN)
})

test('the end of the connection is the end of its channels and requests', async () => {
    const { relay, channel, socket } = await openChannel()
    const events = record(channel)
    const pending = [relay.invoke('greet'), relay.connect('box', 1), relay.channel(8)]
    const failures = pending.map((promise) => assert.rejects(promise, RelayError))
    await settled()
    socket.closed(4007, 'kicked')
    await Promise.all(failures)
    await later()
    assert.deepEqual(events, ['ERROR', { code: 4007, reason: 'kicked', wasClean: false }])
    assert.equal(relay.readyState, 3)
})

test('handlers are set, replaced and removed', async () => {
    const { channel, socket, number } = await openChannel()
    const heard = []
    channel.onmessage = () => heard.push('first')
    channel.onmessage = function () { heard.push(this === channel) }
    socket.receive(frame('text', number, 'a'))
    channel.onmessage = null
    socket.receive(frame('text', number, 'b'))
    assert.deepEqual([heard, channel.onmessage], [[true], null])
})
