// Chat between tabs, one of which is the server: it registers the room under its name, and everybody else connects to
// it. The relay only carries the messages.
//
// What the page knows comes from its fragment, which no server ever sees: #room=NAME&credential=SECRET joins a room;
// without a room this tab opens one.

import { Relay } from '../relay.js'

const PORT = 1
const KEPT = 50

const element = (id) => document.getElementById(id)
const given = new URLSearchParams(location.hash.slice(1))
const isServer = !given.has('room')
const pick = () => Math.random().toString(36).slice(2, 6)

element('name').value = given.get('name') ?? (isServer ? 'Host' : `Guest ${pick()}`)
element('room').value = given.get('room') ?? `room-${pick()}`
element('room').readOnly = !isServer
element('credential').value = given.get('credential') ?? ''
if (!isServer) {
    element('go').textContent = 'Join the room'
    show('new', `You are invited to ${given.get('room')}.`)
}
// Whoever changes the fragment by hand wants another room.
addEventListener('hashchange', () => location.reload())

function show(state, text) {
    element('state').dataset.state = state
    element('state').textContent = text
}

function add({ from, text, notice }, isOwn) {
    const item = document.createElement('li')
    item.className = notice ? 'notice' : isOwn ? 'own' : ''
    if (!notice) item.append(Object.assign(document.createElement('b'), { textContent: from }))
    item.append(notice ?? text)
    element('messages').append(item)
    item.scrollIntoView({ block: 'nearest' })
}

/** What came from somebody else's tab is what it claims to be, or nothing. */
function read(data) {
    try {
        const { name, from, text, notice } = JSON.parse(data)
        const short = (value, length) => value === undefined ? undefined : String(value).slice(0, length)
        return { name: short(name, 40), from: short(from, 40), text: short(text, 2000), notice: short(notice, 100) }
    } catch {
        return {}
    }
}

// The server's part

/** Opens the room; returns what to do with a text of one's own. */
async function openRoom(relay, room, name) {
    const guests = new Map()
    const kept = []

    const tellAll = (message) => {
        kept.push(message)
        if (kept.length > KEPT) kept.shift()
        add(message, message.from === name)
        for (const channel of guests.keys()) channel.send(JSON.stringify(message))
    }

    const server = await relay.listen(room, { ports: PORT, maximumMessageBytes: 16384 }, (channel) => {
        channel.onmessage = ({ data }) => {
            const message = read(data)
            if (message.name !== undefined && !guests.has(channel)) {
                guests.set(channel, message.name)
                for (const earlier of kept) channel.send(JSON.stringify(earlier))
                tellAll({ notice: `${message.name} has come` })
            } else if (message.text !== undefined && guests.has(channel)) {
                tellAll({ from: guests.get(channel), text: message.text })
            }
        }
        channel.onclose = () => {
            const left = guests.get(channel)
            if (guests.delete(channel)) tellAll({ notice: `${left} has left` })
        }
    })
    const isOpen = () => show('open', `This tab is the server of ${room}.`)
    server.onopen = isOpen
    server.onreconnecting = () => show('waiting', 'The relay cannot be reached; trying again …')
    server.onclose = ({ code, reason }) => show('closed', `The room is closed: ${reason || code}.`)
    isOpen()
    await invite(relay, room)
    return (text) => tellAll({ from: name, text })
}

/** Shows a link to the room, with a credential that is good for nothing but joining it, where we may make one. */
async function invite(relay, room) {
    const fragment = new URLSearchParams({ room })
    try {
        const expires = Math.floor(Date.now() / 1000) + 86400
        const rights = [`connect:${room}:${PORT}`]
        const { credential } = await relay.invoke('create credential', { rights, expires })
        fragment.set('credential', credential)
    } catch {
        // Not an admin: guests have credentials of their own.
    }
    element('link').href = `#${fragment}`
    element('invitation').hidden = false
}

// A guest's part

/** Joins the room, and again whenever that ends; returns what to do with a text of one's own. */
async function joinRoom(relay, room, name) {
    let channel
    const join = async () => {
        channel = await relay.connect(room, PORT)
        channel.send(JSON.stringify({ name }))
        channel.onmessage = ({ data }) => {
            const message = read(data)
            add(message, message.from === name)
        }
        channel.onclose = ({ reason, code }) => {
            show('waiting', `${reason || `Closed with ${code}`}; trying again …`)
            setTimeout(again, 1000)
        }
        element('messages').replaceChildren()
        show('open', `You are in ${room}.`)
    }
    const again = () => join().catch((error) => {
        if (error.code === 401 || error.code === 403 || relay.readyState === 3) return show('closed', error.message)
        show('waiting', `${error.message}; trying again …`)
        return setTimeout(again, 1000)
    })
    relay.onclose = ({ code, reason }) => show('closed', `The relay has closed the connection: ${reason || code}.`)
    await join()
    return (text) => channel.send(JSON.stringify({ text }))
}

// The page

element('enter').onsubmit = async (event) => {
    event.preventDefault()
    element('go').disabled = true
    const [name, room, credential] = ['name', 'room', 'credential'].map((id) => element(id).value.trim())
    try {
        show('waiting', 'Connecting …')
        const relay = await Relay.open(new URL('..', location.href), { credential })
        let say
        try {
            say = await (isServer ? openRoom : joinRoom)(relay, room, name)
        } catch (error) {
            relay.close()
            throw error
        }
        element('enter').hidden = true
        element('messages').hidden = false
        element('say').hidden = false
        element('text').focus()
        element('say').onsubmit = (submit) => {
            submit.preventDefault()
            say(element('text').value)
            element('text').value = ''
        }
    } catch (error) {
        show('closed', error.message)
        element('go').disabled = false
    }
}

if (!isServer && given.has('credential')) element('enter').requestSubmit()
