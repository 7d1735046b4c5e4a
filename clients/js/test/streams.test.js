import assert from 'node:assert/strict'
import { test } from 'node:test'
import { accept, close, credit, frame, open, openChannel, openRelay, openServer, settled } from './fake.js'

const text = (chunk) => Buffer.from(chunk).toString()

test('a stream receives only as much as is read', async () => {
    const { channel, socket, number } = await openChannel(0, {}, { credit: 4 })
    const reader = channel.readable.getReader()
    await settled()
    socket.receive(frame('text', number, 'ab'), frame('text', number, 'cd'))
    await settled()
    assert.deepEqual(socket.sent(), [])
    assert.deepEqual(await reader.read(), { done: false, value: 'ab' })
    assert.deepEqual(socket.sent(), [{ type: 'credit', channel: number, bytes: 2 }])
    assert.equal((await reader.read()).value, 'cd')
    const waiting = reader.read()
    await settled()
    socket.receive(frame('binaryMore', number, 'wxyz'), frame('binaryMore', number, '1234'), frame('binary', number, '5'))
    assert.equal(text((await waiting).value), 'wxyz12345')
})

test('bytes are handed on as they come, whatever the message', async () => {
    const { channel, socket, number } = await openChannel(0, {}, { maximumMessageBytes: 1 })
    const reader = channel.bytes.getReader()
    socket.receive(
        frame('binaryMore', number, 'ab'), frame('binaryMore', number, ''), frame('binary', number, ''),
        frame('text', number, 'cd'), frame('end', number))
    assert.equal(text((await reader.read()).value), 'ab')
    assert.equal(text((await reader.read()).value), 'cd')
    assert.equal((await reader.read()).done, true)
})

test('a channel is read in one way', async () => {
    const events = (await openChannel()).channel
    events.addEventListener('message', () => {})
    assert.throws(() => events.readable, { name: 'InvalidStateError' })
    const messages = (await openChannel()).channel
    assert.equal(messages.readable, messages.readable)
    assert.throws(() => messages.bytes, { name: 'InvalidStateError' })
    assert.throws(() => { messages.onmessage = () => {} }, { name: 'InvalidStateError' })
})

test('a writer feels that there is no credit', async () => {
    const { channel, socket, number } = await openChannel(20000)
    const writer = channel.writable.getWriter()
    assert.equal(writer.desiredSize, 16384)
    let written = 0
    const writes = [12000, 12000, 8000].map((size) => writer.write(Buffer.alloc(size)).then(() => { written += 1 }))
    await settled()
    assert.ok(writer.desiredSize <= 0)
    let isReady = false
    writer.ready.then(() => { isReady = true })
    await settled()
    assert.deepEqual([written, isReady, channel.bufferedAmount], [1, false, 4000])
    socket.receive(credit(number, 100000))
    await Promise.all(writes)
    await writer.ready
    assert.equal(writer.desiredSize, 16384)
    await writer.close()
    assert.equal(socket.sent().at(-1).type, 'end')
})

test('streams can be piped through a channel', async () => {
    const { channel, socket, number } = await openChannel(1 << 20)
    const source = new ReadableStream({
        start(controller) {
            for (const part of ['one ', 'two ', 'three']) controller.enqueue(part)
            controller.close()
        },
    })
    const done = channel.readable.pipeThrough(new TransformStream()).pipeTo(new WritableStream({
        write(chunk) { assert.equal(chunk, 'back') },
    }))
    await source.pipeTo(channel.writable)
    assert.deepEqual(socket.sent().map(({ type, data }) => [type, data]), [
        ['text', 'one '], ['text', 'two '], ['text', 'three'], ['end', undefined]])
    socket.receive(frame('text', number, 'back'), frame('end', number))
    await done
})

test('the regular end closes a stream, any other fails it, behind what came before', async () => {
    for (const [code, ends] of [[1000, true], [1001, false], [4004, false], [1006, false]]) {
        const { channel, socket, number } = await openChannel()
        socket.receive(frame('text', number, 'last'), close(number, code, 'why'))
        const reader = channel.readable.getReader()
        assert.equal((await reader.read()).value, 'last')
        if (ends) assert.equal((await reader.read()).done, true)
        else await assert.rejects(reader.read(), { name: 'RelayError', code, message: 'why' })
    }
    const { channel, socket, number } = await openChannel()
    const reading = channel.readable.getReader().read()
    socket.receive(frame('textMore', number, 'half'), close(number, 1000))
    await assert.rejects(reading, { code: 1000 })
})

test('a loop over a channel ends with it, and leaving the loop closes it', async () => {
    const { channel, socket, number } = await openChannel()
    socket.receive(frame('text', number, 'a'), frame('text', number, 'b'), frame('text', number, 'c'))
    const heard = []
    for await (const message of channel) {
        heard.push(message)
        if (message === 'b') break
    }
    assert.deepEqual(heard, ['a', 'b'])
    assert.deepEqual(socket.sent().at(-1), { type: 'close', channel: number, code: 1000, reason: '' })
})

test('what cannot be written any more fails', async () => {
    const { channel, socket, number } = await openChannel(1)
    const writer = channel.writable.getWriter()
    await writer.ready
    const writing = writer.write('abc')
    await settled()
    const failures = [writing, channel.end()].map((promise) => assert.rejects(promise, { code: 4004 }))
    socket.receive(close(number, 4004, 'the server has left'))
    await Promise.all(failures)
    await assert.rejects(writer.write('more'), { code: 4004 })
})

test('aborting a writer closes at once', async () => {
    const { channel, socket, number } = await openChannel(1)
    const writer = channel.writable.getWriter()
    const writing = assert.rejects(writer.write('abc'))
    await settled()
    socket.sent()
    await writer.abort()
    await writing
    assert.deepEqual(socket.sent(), [{ type: 'close', channel: number, code: 1000, reason: '' }])
})

test('reading a stream at a server accepts the client', async () => {
    const heard = []
    const { server } = await openServer(async (channel) => {
        for await (const message of channel) heard.push(message)
    })
    server.receive(open(2, { server: 'box', port: 22, remoteAddress: '192.0.2.1', metadata: null, credit: 5 }))
    await settled()
    assert.deepEqual(server.sent(), [{ type: 'accept', channel: 2, bytes: 262144 }])
    server.receive(frame('text', 2, 'a'), frame('end', 2))
    await settled()
    assert.deepEqual(heard, ['a'])
})

test('an iterator of a channel fails when its connection breaks', async () => {
    const { relay, socket } = await openRelay()
    const connecting = relay.connect('box', 22)
    await settled()
    socket.receive(accept(1, 1))
    const channel = await connecting
    const loop = (async () => { for await (const _ of channel); })()
    await settled()
    socket.closed(1006)
    await assert.rejects(loop, { code: 1006 })
    relay.close()
})
