"""A back end for webhooks, in a process of its own: it writes down what it gets, and misbehaves as it is told.

Started with a port, it prints the port that it listens on. `POST /control/MODE` sets what becomes of requests from then
on, `GET /control/log` answers what has come, as JSON."""

import base64
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OK = b'{"code":"OK"}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Head and body in one segment: Nagle would wait in between.

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        if self.path.startswith("/control/"):
            if self.path == "/control/log":
                with server.lock:
                    return self.answer(200, json.dumps(server.log).encode())
            server.mode = self.path.removeprefix("/control/")
            server.count = 0
            return self.answer(200, OK)
        with server.lock:
            server.log.append({
                "method": self.command, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()},
                "body": base64.b64encode(body).decode()})
            server.count += 1
            count = server.count
        mode, _, argument = server.mode.partition("/")
        if mode == "slow":
            time.sleep(float(argument))
        if mode == "never" or mode == "hang" and argument == self.command:
            server.stopped.wait()
        if mode == "fail" and count <= int(argument):
            return self.answer(500, b"{}")
        if mode == "status":
            return self.answer(int(argument), OK)
        if mode == "body":
            return self.answer(200, base64.urlsafe_b64decode(argument))
        if mode == "redirect":
            return self.answer(307, b"", Location=base64.urlsafe_b64decode(argument).decode())
        if mode == "huge":
            self.send_response(200)
            if argument == "announced":
                self.send_header("Content-Length", str(10 << 30))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            piece = b"x" * (1 << 20)
            try:
                for _ in range(10 << 10):
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True
            return None
        return self.answer(200, OK)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port):
        self.lock, self.log, self.mode, self.count = threading.Lock(), [], "ok", 0
        self.stopped = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, *_):
        pass  # A relay that gives up an answer is no news.


class Backend:
    """The tests' side of it."""

    def __init__(self):
        self.port = 0
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, __file__, str(self.port)], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def end(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def control(self, what, method="POST"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control/{what}", method=method)
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.read()

    def mode(self, name, argument=None):
        if isinstance(argument, bytes):
            argument = base64.urlsafe_b64encode(argument).decode()
        self.control(name if argument is None else f"{name}/{argument}")

    @property
    def log(self):
        entries = json.loads(self.control("log", "GET"))
        for entry in entries:
            entry["body"] = base64.b64decode(entry["body"])
        return entries

    def of(self, method):
        return [entry for entry in self.log if entry["method"] == method]


if __name__ == "__main__":
    server = Server(int(sys.argv[1]))
    print(server.server_port, flush=True)
    server.serve_forever()
