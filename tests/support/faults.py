"""Stands in for an MLflow server that refuses, hangs, fails, or is older than it is."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

__all__ = ["STOP_POLL", "answering", "hanging", "hanging_up", "older", "refusing"]

STOP_POLL = 0.02
"""Seconds until a server notices that it is to stop: by default half a second, in every test that has one."""


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """Yield an address that refuses connections: the port is reserved, and nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextlib.contextmanager
def hanging() -> Iterator[str]:
    """Yield an address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def answering(
    status: int, body: bytes = b"no", headers: Mapping[str, str] | None = None, version: str | None = None
) -> Iterator[str]:
    """Yield the address of a server that answers every request alike, except a request for its version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if version is not None and self.path == "/version":
                self.answer(200, version.encode(), {})
            else:
                self.answer(status, body, headers or {})

        do_POST = do_PUT = do_GET  # noqa: N815 - the standard library's names

        def answer(self, code: int, content: bytes, named: Mapping[str, str]) -> None:
            self.send_response_only(code)
            always = {"Date": self.date_time_string(), "Content-Length": str(len(content))}
            for name, value in {**always, **named}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
            """Log nothing."""

    with _serving(Handler) as address:
        yield address


@contextlib.contextmanager
def hanging_up(version: str) -> Iterator[str]:
    """Yield the address of a server that answers one request per connection, and hangs up on the second."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        has_answered = False

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.close_connection = self.has_answered
            if not self.has_answered:
                body = version.encode() if self.command == "GET" else b""  # an OTLP answer is empty
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if body else "application/x-protobuf")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            self.has_answered = True

        do_POST = do_GET  # noqa: N815 - the standard library's name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
            """Log nothing."""

    with _serving(Handler) as address:
        yield address


@contextlib.contextmanager
def older(server: str, version: str) -> Iterator[str]:
    """Yield the address of a proxy of `server` that reports another version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kept = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            passed = httpx.request(
                self.command, server + self.path, content=content, headers=kept, timeout=30
            )
            body = version.encode() if self.path == "/version" else passed.content
            self.send_response(passed.status_code)
            self.send_header("Content-Type", passed.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET  # noqa: N815 - the standard library's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
            """Log nothing."""

    with _serving(Handler) as address:
        yield address


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(STOP_POLL,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
