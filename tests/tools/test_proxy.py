"""Holds the fault proxy to what it says of itself: a test of reliability is worth what its faults are."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support import faults
from tests.support.proxy import (
    BLACK_HOLE,
    GARBAGE,
    HANGING,
    HEALTHY,
    REFUSING,
    RESETTING,
    RESPONSE_LOST,
    UNTRUSTED,
    Fault,
    FaultProxy,
    answers,
    refuses_above,
    refuses_content,
    slow,
)
from tests.support.server import wait_for


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy before a server that says yes to everything."""
    with faults.answering(200, b"yes") as server, FaultProxy(server) as running:
        yield running


def post(proxy: FaultProxy, content: bytes = b"", timeout: float = 5.0) -> httpx.Response:
    return httpx.post(f"{proxy.address}/v1/traces", content=content, timeout=timeout)


def read_all(client: socket.socket) -> None:
    while client.recv(1000):
        """Half a response may come before what is waited for."""


def test_a_healthy_proxy_passes_and_counts_requests(proxy: FaultProxy) -> None:
    assert post(proxy, b"12345").text == "yes"
    assert post(proxy, b"123").text == "yes"
    assert (proxy.requests, proxy.received) == (2, 8)
    assert (proxy.seen[0].method, proxy.seen[0].path) == ("POST", "/v1/traces")


def test_a_port_that_refuses_stays_reserved_and_listens_again(proxy: FaultProxy) -> None:
    for _ in range(3):
        proxy.fault = REFUSING
        with pytest.raises(httpx.ConnectError):
            post(proxy)
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", proxy.port))
        proxy.fault = HEALTHY
        assert post(proxy).text == "yes"


def test_an_open_connection_ends_when_the_port_refuses(proxy: FaultProxy) -> None:
    with httpx.Client(base_url=proxy.address) as client:
        assert client.get("/version").text == "yes"
        proxy.fault = REFUSING
        with pytest.raises(httpx.TransportError):
            client.get("/version")


@pytest.mark.parametrize("fault", [HANGING, BLACK_HOLE])
def test_a_hanging_proxy_reads_and_does_not_answer(proxy: FaultProxy, fault: Fault) -> None:
    proxy.fault = fault
    with pytest.raises(httpx.ReadTimeout):
        post(proxy, b"12345", timeout=0.2)
    assert proxy.received == 5
    proxy.fault = HEALTHY
    assert post(proxy).text == "yes"


@pytest.mark.parametrize(("fault", "error"), [(HANGING, httpx.ReadError), (BLACK_HOLE, httpx.ReadTimeout)])
def test_a_hanging_request_ends_with_the_fault_unless_it_is_a_black_hole(
    proxy: FaultProxy, fault: Fault, error: type[Exception]
) -> None:
    met: list[Exception] = []

    def ask() -> None:
        try:
            post(proxy, timeout=1.0)
        except httpx.TransportError as raised:
            met.append(raised)

    proxy.fault = fault
    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: proxy.requests)
    proxy.fault = HEALTHY
    thread.join()
    assert isinstance(met[0], error | httpx.RemoteProtocolError if fault is HANGING else error)


@pytest.mark.parametrize("status", [401, 413, 500])
def test_the_proxy_answers_with_the_status_of_its_fault(proxy: FaultProxy, status: int) -> None:
    proxy.fault = answers(status)
    assert post(proxy).status_code == status


@pytest.mark.parametrize("status", [429, 503])
def test_the_proxy_answers_with_retry_after(proxy: FaultProxy, status: int) -> None:
    proxy.fault = answers(status, retry_after=2)
    assert (post(proxy).status_code, post(proxy).headers["Retry-After"]) == (status, "2")


def test_the_proxy_refuses_content_that_is_too_large(proxy: FaultProxy) -> None:
    proxy.fault = refuses_above(10)
    assert [post(proxy, b"x" * size).status_code for size in (10, 11)] == [200, 413]


def test_the_proxy_refuses_content_that_holds_a_certain_text(proxy: FaultProxy) -> None:
    proxy.fault = refuses_content(b"poison")
    assert [post(proxy, body).status_code for body in (b"food", b"a poison!")] == [200, 400]


def test_a_resetting_proxy_resets_the_connection(proxy: FaultProxy) -> None:
    proxy.fault = RESETTING
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_for(lambda: proxy.requests)
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_slow_proxy_answers_after_its_delay(proxy: FaultProxy) -> None:
    proxy.fault = slow(0.3)
    began = time.monotonic()
    assert post(proxy).text == "yes"
    assert time.monotonic() - began >= 0.3


def test_the_proxy_loses_a_response_that_the_server_sent() -> None:
    with FaultProxy() as server, FaultProxy(server.address) as proxy:
        proxy.fault = RESPONSE_LOST
        with pytest.raises(httpx.RemoteProtocolError):
            post(proxy, b"12345")
        assert server.received == 5


def test_tls_fails_when_the_certificate_is_not_trusted() -> None:
    with faults.answering(200, b"yes") as server, FaultProxy(server, tls=True) as proxy:
        trust = ssl.create_default_context(cafile=str(proxy.certificate))
        assert httpx.get(proxy.address, verify=trust).text == "yes"
        for fault in (UNTRUSTED, GARBAGE):
            proxy.fault = fault
            with pytest.raises(httpx.ConnectError):
                httpx.get(proxy.address, verify=trust)
        proxy.fault = HEALTHY
        assert httpx.get(proxy.address, verify=trust).text == "yes"


def test_a_proxy_without_a_server_answers_502() -> None:
    with FaultProxy() as proxy:
        assert post(proxy).status_code == 502
