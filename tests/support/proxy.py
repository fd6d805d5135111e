"""Stands before a real MLflow server and fails as networks, proxies and servers do, on real sockets.

    with FaultProxy(server) as proxy:
        proxy.fault = answers(503, retry_after=2)
        ...
        proxy.fault = HEALTHY

A change takes effect at once: what the last fault held is let go, and its connections are closed.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.certificates import self_signed

__all__ = [
    "BLACK_HOLE", "GARBAGE", "HANGING", "HEALTHY", "REFUSING", "RESETTING", "RESPONSE_LOST", "UNTRUSTED",
    "Fault", "FaultProxy", "Seen", "answers", "answers_to", "redirects", "refuses_above", "refuses_content",
    "shows_login", "slow",
]  # fmt: skip

UPSTREAM_TIMEOUT = 60.0
"""Seconds that the real server is given: longer than any client here waits."""

ACCEPT_POLL = 0.02
"""Seconds until a listener notices that it is to close."""

_ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all: closing sends RST instead of FIN."""

_HOP_BY_HOP = frozenset({"host", "connection", "content-length", "transfer-encoding"})
"""Headers of one connection, which the next one gets its own of."""


@dataclass(frozen=True)
class Seen:
    """A request that arrived: what it asked for, and the bytes of its body."""

    method: str
    path: str
    size: int


@dataclass(frozen=True)
class Answer:
    """A response as a whole."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


HTML = (("Content-Type", "text/html; charset=utf-8"),)

LOGIN_PAGE = Answer(HTTPStatus.OK, b"<html><title>Please log in</title></html>", HTML)
"""What a proxy shows to those who are not logged in, with the status of a success."""


class Visit(BaseHTTPRequestHandler):
    """One connection: reads its requests, lets the fault meet them, and can do what faults do."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.proxy.seen.append(Seen(self.command, self.path, len(self.body)))
        self.server.fault.meet(self)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the standard library's names

    def forward(self) -> Answer:
        """Ask the server behind the proxy; 502 where there is none."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        return self.server.proxy.ask(self.command, self.path, self.body, headers)

    def answer(self, answer: Answer) -> None:
        """Send a response."""
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def drop(self) -> None:
        """Close the connection, orderly."""
        self.close_connection = True

    def reset(self) -> None:
        """Send half a response, then RST."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it")
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.close_connection = True

    def wait(self, seconds: float | None = None) -> None:
        """Wait for `seconds`, or for as long as the fault lasts, whichever is shorter."""
        self.server.over.wait(seconds)

    def hang(self) -> None:
        """Wait for the end of the proxy."""
        self.server.proxy.closed.wait()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


@dataclass(frozen=True)
class Fault:
    """A way to fail: what happens to each request, and to the connection before it."""

    name: str
    meet: Callable[[Visit], None]
    listens: bool = True
    trusted: bool = True
    """Whether the certificate, over TLS, is the one that clients trust."""
    speaks: bool = True
    """Whether a connection is met with its protocol, rather than with garbage."""


def _pass(visit: Visit) -> None:
    visit.answer(visit.forward())


def _hang(visit: Visit) -> None:
    visit.wait()
    visit.drop()


def _vanish(visit: Visit) -> None:
    visit.hang()
    visit.drop()


def _lose(visit: Visit) -> None:
    answer = visit.forward()
    if visit.command == "GET":  # changes nothing: passed, so that what comes after it is asked at all
        visit.answer(answer)
    else:
        visit.drop()


HEALTHY = Fault("healthy", _pass)
REFUSING = Fault("refused", _pass, listens=False)
"""Nobody listens; the port stays held, so that nobody else will."""
HANGING = Fault("accepts and hangs", _hang)
"""Requests are read and not answered; their connections end with the fault, as when a server is restarted."""
BLACK_HOLE = Fault("black hole", _vanish)
"""As HANGING, but what was sent stays unanswered after the fault too: a firewall forgot the connections."""
RESETTING = Fault("reset mid-response", Visit.reset)
"""A response begins and is cut by RST; the server has not seen the request."""
RESPONSE_LOST = Fault("response lost", _lose)
"""The server does what it was told, and its answer never arrives; questions are answered."""
UNTRUSTED = Fault("TLS failure", _pass, trusted=False)
"""Over TLS: the certificate is one that the client was not told to trust."""
GARBAGE = Fault("garbage", _pass, speaks=False)
"""What answers speaks neither HTTP nor TLS."""


def answers(status: int, retry_after: int | None = None) -> Fault:
    """Answer everything with `status`, and with Retry-After in seconds."""
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    name = str(status) if retry_after is None else f"{status} + Retry-After"
    return Fault(name, lambda visit: visit.answer(Answer(status, b"no", headers)))


def answers_to(method: str, status: int, text: bytes = b"no") -> Fault:
    """Answer one method with `status`, and everything else rightly."""
    return _refuses(f"{status} to {method}", Answer(status, text), lambda visit: visit.command == method)


def redirects(request: str, status: int, to: str) -> Fault:
    """Redirect requests that begin with `request` ("POST /v1/traces"); /login answers with a login page."""
    away = Answer(status, b"moved", (("Location", to),))

    def meet(visit: Visit) -> None:
        asked = f"{visit.command} {visit.path}"
        if visit.path.startswith("/login"):
            visit.answer(LOGIN_PAGE)
        elif asked.startswith(request):
            visit.answer(away)
        else:
            _pass(visit)

    return Fault(f"{status} to {request}", meet)


def shows_login(request: str) -> Fault:
    """Answer requests that begin with `request` with 200 and a login page, and everything else rightly."""
    return _refuses(
        f"login page to {request}",
        LOGIN_PAGE,
        lambda visit: f"{visit.command} {visit.path}".startswith(request),
    )


def slow(seconds: float) -> Fault:
    """Answer rightly, `seconds` late."""

    def meet(visit: Visit) -> None:
        answer = visit.forward()
        visit.wait(seconds)
        visit.answer(answer)

    return Fault(f"{seconds:g} s per answer", meet)


def refuses_above(size: int) -> Fault:
    """Answer 413 to bodies of more than `size` bytes, as a reverse proxy does."""
    too_large = Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"too large")
    return _refuses(f"413 above {size} B", too_large, lambda visit: len(visit.body) > size)


def refuses_content(poison: bytes) -> Fault:
    """Answer 400 to bodies that contain `poison`: a trace that the server will never take."""
    refused = Answer(HTTPStatus.BAD_REQUEST, b"refused for its content")
    return _refuses("400 for one trace", refused, lambda visit: poison in visit.body)


def _refuses(name: str, answer: Answer, refused: Callable[[Visit], bool]) -> Fault:
    return Fault(name, lambda visit: visit.answer(answer) if refused(visit) else _pass(visit))


class FaultProxy:
    """Listens at `address`, and fails in the way of `fault`."""

    def __init__(self, server: str | None = None, *, tls: bool = False) -> None:
        """Stand before `server`, or before nothing; with `tls`, clients trust the file `certificate`."""
        self._upstream = urlsplit(server).netloc if server else None
        self._folder = tempfile.TemporaryDirectory(prefix="fault-proxy-")
        self.certificate = self_signed(Path(self._folder.name) / "trusted.pem") if tls else None
        self.stranger = self_signed(Path(self._folder.name) / "stranger.pem") if tls else None
        self._held = _bound(0)
        self.port = int(self._held.getsockname()[1])
        self.address = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.closed = threading.Event()
        self.seen: list[Seen] = []
        """Every request that arrived, oldest first."""
        self._listener = _Listener(self, HEALTHY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed.set()
        self._listener.stop()
        self._held.close()
        self._folder.cleanup()

    @property
    def fault(self) -> Fault:
        """How it fails now."""
        return self._listener.fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._listener.stop()
        self._listener = _Listener(self, fault)

    @property
    def requests(self) -> int:
        """How many requests arrived until now."""
        return len(self.seen)

    @property
    def received(self) -> int:
        """How many bytes their bodies had."""
        return sum(one.size for one in self.seen)

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Pass a request on to the server."""
        if self._upstream is None:
            return Answer(HTTPStatus.BAD_GATEWAY, b"nobody is behind this proxy")
        with contextlib.closing(
            http.client.HTTPConnection(self._upstream, timeout=UPSTREAM_TIMEOUT)
        ) as server:
            try:
                server.request(method, path, body, headers)
                got = server.getresponse()
                return Answer(got.status, got.read(), tuple(got.getheaders()))
            except (OSError, http.client.HTTPException) as error:
                return Answer(HTTPStatus.BAD_GATEWAY, str(error).encode())


class _Listener(ThreadingHTTPServer):
    """Accepts connections while one fault lasts, and serves each in its own thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: FaultProxy, fault: Fault) -> None:
        super().__init__(("127.0.0.1", proxy.port), Visit, bind_and_activate=False)
        self.proxy, self.fault = proxy, fault
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(ACCEPT_POLL,), daemon=True)
        self.socket.close()
        self.socket = _bound(proxy.port)
        if fault.listens:
            self.socket.listen(128)
            self._thread.start()

    def stop(self) -> None:
        """Stop listening, end what hangs, and close every connection."""
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()
        self.over.set()
        if self.fault is not BLACK_HOLE:
            self._cut_all()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection, to its end."""
        if not self.fault.speaks:
            request.sendall(b"\0garbage\0")
            return
        with self._secured(request) as connection:
            with self._lock:
                self._open.add(connection)
            try:
                Visit(connection, client_address, self)
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _secured(self, connection: socket.socket) -> socket.socket:
        """Shake hands where TLS is spoken."""
        file = self.proxy.certificate if self.fault.trusted else self.proxy.stranger
        if file is None:
            return connection
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context.wrap_socket(connection, server_side=True)

    def _cut_all(self) -> None:
        """Wake the thread that reads or writes on a connection; that thread closes it."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Only close: to say goodbye first would make an orderly end of a reset."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections that break are what this is for."""


def _bound(port: int) -> socket.socket:
    """Bind a port that others of ours hold as well; one of them at a time listens."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
