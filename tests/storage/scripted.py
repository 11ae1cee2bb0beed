"""A server that answers what it is told to, and remembers what it was asked.

For answers that no real store gives on demand (a throttled request, a skewed clock), and to see
what was really sent. Everything else is tested on stores that others wrote.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """One answer. ``code`` goes into a body as S3 writes it, unless ``body`` is given."""

    status: int = 200
    code: str = ""
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = (("ETag", '"etag"'),)
    cut: bool = False

    @property
    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        if not self.code:
            return b""
        return f"<Error><Code>{self.code}</Code><Message>Said so.</Message></Error>".encode()


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """``answers`` are given in their order, the last one for ever."""

    port: int
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    asked: list[Asked] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """The server, running."""
    script: Scripted

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.asked.append(Asked(self.command, self.path, headers, body))
            answer = script.next()
            if answer.cut:
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_CONNECT = answer

        def log_message(self, *_: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (OSError, ValueError):
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script = Scripted(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
