"""relay.js and the example pages in Chromium: tabs that talk through a relay, over wss:// with its own certificate."""

import functools
import http.server
import threading

import pytest

from browser import Browser
from conditions import eventually
from relay import Relay, restart

OPEN = "const { Relay, RelayError } = await import(given.client); "
CHUNK = 64 << 10
CREDIT = 256 << 10


@pytest.fixture(scope="module")
def relay():
    with Relay("--tls-self-signed", "--examples", listen=["wss://127.0.0.1:0"]) as relay:
        yield relay


@pytest.fixture(scope="module")
def chromium(relay):
    browser = Browser(relay.state / "tls-certificate.pem")
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium):
    """One for all; tabs are a test's own."""
    yield chromium
    chromium.close_tabs()


@pytest.fixture
def page(relay, browser):
    """Makes tabs, on the relay's origin unless said otherwise, each with an open `relay` of its own."""

    def make(url=None):
        tab = browser.tab(url or site(relay) + "/healthz")
        tab.run(OPEN + "window.relay = await Relay.open(given.url, { credential: given.credential })", **ways(relay))
        return tab

    return make


def site(relay):
    return relay.url.replace("wss://", "https://").rstrip("/")


def ways(relay):
    return {"client": site(relay) + "/relay.js", "url": relay.url, "credential": relay.admin}


def test_ten_megabytes_pass_both_ways_unchanged(page):
    digest = """
        const digest = async (bytes) => new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)).toString()
        const noise = () => {
            const bytes = new Uint8Array(10 << 20)
            for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536))
            return bytes
        }
    """
    server, client = page(), page()
    server.run(digest + """
        await relay.listen('store', (channel) => {
            channel.onmessage = async ({ data }) => {
                const back = noise()
                channel.send(JSON.stringify([await digest(data), await digest(back)]))
                channel.send(back)
            }
        })
    """)
    sent, reported, promised, received = client.run(digest + """
        const channel = await relay.connect('store', 1)
        const messages = channel[Symbol.asyncIterator]()
        const bytes = noise()
        channel.send(new Blob([bytes]))
        const [reported, promised] = JSON.parse((await messages.next()).value)
        const received = await digest((await messages.next()).value)
        channel.close()
        return [await digest(bytes), reported, promised, received]
    """)
    assert sent == reported and promised == received and sent != promised


def test_a_writer_waits_for_a_reader_in_another_tab(page):
    server, client = page(), page()
    server.run("""
        window.received = 0
        await relay.listen('slow', async (channel) => {
            channel.accept()
            if (channel.port === 2) {
                channel.send('ready')
                return
            }
            await new Promise((resolve) => { window.read = resolve })
            for await (const message of channel) window.received += message.length
            await channel.end()
        })
    """)
    stalled = client.run("""
        const channel = await relay.connect('slow', 1)
        window.written = 0
        const writer = channel.writable.getWriter()
        window.writing = (async () => {
            for (let count = 0; count < 100; count += 1) {
                await writer.ready
                writer.write(new Uint8Array(given.chunk)).then(() => { window.written += given.chunk })
            }
            await writer.close()
        })()
        while (channel.bufferedAmount === 0) await new Promise((resolve) => setTimeout(resolve))
        // Another channel is not held up.
        const other = await relay.connect('slow', 2)
        await new Promise((resolve) => { other.onmessage = resolve })
        return [window.written, writer.desiredSize]
    """, chunk=CHUNK)
    # What the reader grants, and what the relay may hold of it.
    assert 0 < stalled[0] <= 2 * CREDIT and stalled[1] <= 0
    assert server.run("return window.received") == 0
    server.run("window.read()")
    assert client.run("await window.writing; return window.written") == 100 * CHUNK
    eventually(lambda: server.run("return window.received") == 100 * CHUNK, "everything has been read")


def test_it_works_in_a_worker(relay, page):
    server, client = page(), page()
    server.run("""
        const source = `
            import { Relay } from '${given.client}'
            const relay = await Relay.open('${given.url}', { credential: '${given.credential}' })
            await relay.listen('worker', (channel) => {
                channel.onmessage = ({ data }) => channel.send(data + ', says the worker')
            })
            postMessage('ready')
        `
        const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }))
        const worker = window.worker = new Worker(url, { type: 'module' })
        await new Promise((resolve, reject) => { worker.onmessage = resolve; worker.onerror = reject })
    """, **ways(relay))
    answer = client.run("""
        const channel = await relay.connect('worker', 1)
        channel.send('hello')
        return (await new Promise((resolve) => { channel.onmessage = resolve })).data
    """)
    assert answer == "hello, says the worker"


def test_a_page_from_elsewhere_imports_the_client(relay, page, tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>elsewhere</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as elsewhere:
        thread = threading.Thread(target=elsewhere.serve_forever)
        thread.start()
        try:
            tab = page(f"http://127.0.0.1:{elsewhere.server_port}/")
            assert tab.run("return (await relay.invoke('apps')).length") == 1
        finally:
            elsewhere.shutdown()
            thread.join()


@pytest.mark.parametrize("goodbye", ["close", "crash"])
def test_a_tab_that_goes_takes_its_end_of_the_channels_along(relay, page, goodbye):
    server, client = page(), page()
    server.run("""
        window.ends = []
        await relay.listen('frail', (channel) => {
            channel.onmessage = ({ data }) => channel.send(data)
            channel.onclose = ({ code }) => window.ends.push(code)
        })
    """)
    talk = """
        const channel = await relay.connect('frail', 1)
        window.ends = []
        channel.onclose = ({ code }) => window.ends.push(code)
        channel.send('hello')
        return (await new Promise((resolve) => { channel.onmessage = resolve })).data
    """
    assert client.run(talk) == "hello"
    getattr(client, goodbye)()
    eventually(lambda: len(server.run("return window.ends")) == 1, "the server has heard of the end")
    assert server.run("return window.ends")[0] in (1001, 1006)

    other = page()
    assert other.run(talk) == "hello"
    getattr(server, goodbye)()
    eventually(lambda: len(other.run("return window.ends")) == 1, "the client has heard of the end")
    assert other.run("return window.ends")[0] in (1006, 4004)
    eventually(lambda: relay.listed("servers") == [], "the name is free")


# The example


def open_chat(relay, browser):
    """Two tabs that are in one room; the first is its server."""
    host = browser.tab(f"{site(relay)}/examples/chat.html#credential={relay.admin}&name=Ada")
    host.click("#go")
    host.shows("#state", "is the server")
    eventually(lambda: host.element("#invitation").is_displayed(), "there is an invitation")
    link = host.element("#link").get_attribute("href")
    assert relay.admin not in link
    guest = browser.tab(link)
    guest.shows("#state", "You are in")
    return host, guest


def say(tab, text):
    tab.type("#text", text)
    tab.click("#say button")


def test_two_tabs_chat_and_one_of_them_is_the_server(relay, browser):
    host, guest = open_chat(relay, browser)
    host.shows("#messages", "has come")
    say(guest, "<b>hello</b>, server")
    host.shows("#messages", "<b>hello</b>, server")
    say(host, "hello, guest")
    guest.shows("#messages", "hello, guest")
    assert guest.element("#messages li.own").text.endswith("<b>hello</b>, server")
    assert host.complaints() == []
    guest.close()
    host.shows("#messages", "has left")


def test_what_the_example_cannot_do_it_says(relay, browser):
    tab = browser.tab(f"{site(relay)}/examples/")
    tab.click(".cards a")
    tab.type("#credential", "no.credential")
    tab.click("#go")
    tab.shows("#state", "cannot be reached, or refuses")
    tab.type("#credential", relay.admin)
    tab.click("#go")
    tab.shows("#state", "is the server")


def test_tabs_come_back_when_the_relay_is_started_again(relay, browser):
    host, guest = open_chat(relay, browser)
    restart(relay)
    eventually(lambda: host.element("#messages").text.count("has come") == 2, "the guest is in the room again")
    assert [server["server"] for server in relay.listed("servers")] == [host.element("#room").get_attribute("value")]
    guest.shows("#state", "You are in")
    say(guest, "here again")
    host.shows("#messages", "here again")
    say(host, "so am I")
    guest.shows("#messages", "so am I")
