"""A fake MLflow server that stores spans by trace id and span id, many times faster than the real one.

Each path before `/version` and `/v1/traces` is a separate server. One whose path ends in `flaky` fails now
and then, also after it has stored a request, until `make_well` is called.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from mlflow.entities import Trace
from mlflow.tracking import MlflowClient
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from langchain_mlflow_tracer.core.attributes import OUTCOME
from langchain_mlflow_tracer.core.record import Outcome
from langchain_mlflow_tracer.encoding.payload import read_spans

__all__ = ["KeptTrace", "in_mlflow", "in_stand_in", "make_well", "stand_in"]

VERSION = "3.17.2"

FLAKY = "flaky"

IN_PROGRESS = "IN_PROGRESS"
"""MLflow's word for a trace that has no root yet."""

FAILS = 0.15
"""The share of requests that a flaky server refuses, and the share that it stores without an answer."""


@dataclass(frozen=True)
class KeptTrace:
    """A stored trace: the name of its first span, its state in MLflow, and the outcome of each span."""

    id: str
    name: str
    state: str
    outcomes: tuple[str, ...]

    @property
    def is_running(self) -> bool:
        return self.state == IN_PROGRESS

    @property
    def is_complete(self) -> bool:
        return self.state == "OK" and set(self.outcomes) == {Outcome.COMPLETED.value}

    @property
    def is_cut_off(self) -> bool:
        ended = {Outcome.COMPLETED.value, Outcome.CUT_OFF.value}
        return self.state == "ERROR" and Outcome.CUT_OFF in self.outcomes and set(self.outcomes) <= ended


def in_mlflow(uri: str, experiment: str) -> list[KeptTrace]:
    """Return what a real MLflow has in `experiment`, as its own client shows it."""
    client = MlflowClient(uri)
    stored = client.get_experiment_by_name(experiment)
    if stored is None:
        return []
    return [_as_kept(trace) for trace in client.search_traces([stored.experiment_id], max_results=500)]


def _as_kept(trace: Trace) -> KeptTrace:
    outcomes = tuple(span.get_attribute(OUTCOME) or Outcome.COMPLETED.value for span in trace.data.spans)
    first = min(trace.data.spans, key=lambda span: span.start_time_ns)
    return KeptTrace(trace.info.trace_id, first.name, str(trace.info.state), outcomes)


def in_stand_in(uri: str) -> list[KeptTrace]:
    """Return what the fake server at `uri` has stored."""
    answer = httpx.get(f"{uri}/kept", timeout=30).raise_for_status()
    return [
        KeptTrace(trace["id"], trace["name"], trace["state"], tuple(trace["outcomes"]))
        for trace in answer.json()
    ]


def make_well(uri: str) -> None:
    """Make a flaky server reliable."""
    httpx.get(f"{uri}/well", timeout=30).raise_for_status()


@contextlib.contextmanager
def stand_in() -> Iterator[str]:
    """Run the fake server in its own process, which ends with this one; yield its address."""
    server = _Server(("127.0.0.1", 0), _Handler)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        os.close(writing)
        os.waitpid(child, 0)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: clients are killed in the middle of a request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kept: dict[str, dict[bytes, dict[bytes, Span]]] = {}  # noqa: RUF012 - what all requests share
    well: set[str] = set()  # noqa: RUF012 - what all requests share
    chance = random.Random(1)  # noqa: S311 - no secret

    def do_GET(self) -> None:
        server, _, asked = self.path.rpartition("/")
        if asked == "kept":
            self.answer(200, json.dumps([_described(spans) for spans in self.kept.get(server, {}).values()]))
        else:
            self.well |= {server} if asked == "well" else set()
            self.answer(200, VERSION)

    def do_POST(self) -> None:
        server = self.path.removesuffix("/v1/traces")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        luck = 1.0 if server in self.well or not server.endswith(FLAKY) else self.chance.random()
        if luck < FAILS:
            self.answer(503, "not now")
            return
        for span in read_spans(content):
            self.kept.setdefault(server, {}).setdefault(span.trace_id, {})[span.span_id] = span
        if luck < 2 * FAILS:
            self.close_connection = True  # without a word
        else:
            self.answer(200, "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf" if self.command == "POST" else "text/html")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


def _described(spans: dict[bytes, Span]) -> dict[str, object]:
    """A trace has ended when it has a root, as it has for MLflow."""
    first = min(spans.values(), key=lambda span: span.start_time_unix_nano)
    states = {Status.STATUS_CODE_OK: "OK", Status.STATUS_CODE_ERROR: "ERROR"}
    return {
        "id": f"tr-{first.trace_id.hex()}",
        "name": first.name,
        "state": IN_PROGRESS if first.parent_span_id else states[first.status.code],
        "outcomes": [_attribute(span, OUTCOME) or Outcome.COMPLETED.value for span in spans.values()],
    }


def _attribute(span: Span, key: str) -> str:
    return next(
        (str(attribute.value.string_value) for attribute in span.attributes if attribute.key == key), ""
    )
