"""A real HTTP server on this machine, that answers as told: rightly or not."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """`answers` are given in turn, the last one again and again; `seen` are the requests, as method, address and headers."""

    def __init__(self, answers: list[Answer], certificate: Path | None = None) -> None:
        self.answers = answers
        self.seen: list[tuple[str, dict[str, str]]] = []
        owner, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with lock:
                    owner.seen.append((self.path, dict(self.headers)))
                    answer = owner.answers[min(len(owner.seen), len(owner.answers)) - 1]
                self.close_connection = True
                answer(self)

            def log_message(self, *_: object) -> None:
                """The tests look at `seen`."""

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that leaves in the middle is part of the tests."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _send(handler: BaseHTTPRequestHandler, code: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def whole(content: bytes, **headers: str) -> Answer:
    return lambda handler: _send(handler, 200, {"Content-Length": str(len(content)), **headers}, content)


def without_length(content: bytes) -> Answer:
    return lambda handler: _send(handler, 200, {"Connection": "close"}, content)


def with_length(content: bytes, length: int) -> Answer:
    """What a server does that breaks off (`length` larger), or counts wrong (smaller)."""
    return lambda handler: _send(handler, 200, {"Content-Length": str(length), "ETag": '"one"'}, content)


def the_rest(content: bytes, *, tag: str = '"one"', shift: int = 0) -> Answer:
    """Goes on where it broke if the content is still that of `tag`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if not asked or handler.headers.get("If-Range") != tag:
            return whole(content, ETag=tag)(handler)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) + shift
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return _send(handler, 206, {"Content-Length": str(len(content) - start), "ETag": tag, **span}, content[start:])

    return answer


def stalled(content: bytes, until: threading.Event) -> Answer:
    """Half of it, and then silence."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _send(handler, 200, {"Content-Length": str(len(content))}, content[: len(content) // 2])
        handler.wfile.flush()
        until.wait(10)

    return answer


def dripping(content: bytes, until: threading.Event, *, tag: str = '"one"') -> Answer:
    """Half of it, and then a little at a time, for whoever goes on asking."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        half = len(content) // 2
        _send(handler, 200, {"Content-Length": str(len(content)), "ETag": tag}, content[:half])
        while not until.wait(0.02) and half < len(content):
            handler.wfile.write(content[half : half + 2**18])
            half += 2**18

    return answer


def status(code: int) -> Answer:
    return lambda handler: _send(handler, code, {"Content-Length": "5"}, b"sorry")


def redirect(url: str) -> Answer:
    return lambda handler: _send(handler, 302, {"Location": url, "Content-Length": "0"}, b"")
