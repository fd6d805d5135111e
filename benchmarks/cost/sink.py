"""A backend that accepts everything at once, so that a slow server does not change the cost of a contestant.

    python -m benchmarks.cost.sink

It runs as a separate process. It answers as healthy servers of MLflow 3.17.2, Langfuse, LangSmith and
OpenTelemetry do, stores nothing, and counts. `GET /counted` returns the counts.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Final

__all__ = ["COUNTED"]

COUNTED: Final = "/counted"
"""The path that returns the counts as JSON: requests and bytes."""

EXPERIMENT: Final = {"experiment": {"experiment_id": "0", "name": "Default", "lifecycle_stage": "active"}}

INFO: Final = {
    "version": "0.12.0",
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 100,
        "size_limit_bytes": 20_971_520,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 16,
        "scale_down_nempty_trigger": 4,
    },
}
"""The answer to the first request of LangSmith's client (langsmith 0.15), with its own default values."""

ANSWERS: Final[tuple[tuple[str, bytes], ...]] = (
    ("/version", b"3.17.2"),
    ("/info", json.dumps(INFO).encode()),
    ("/experiments/", json.dumps(EXPERIMENT).encode()),
    ("/v1/traces", b""),  # an ExportTraceServiceResponse in which nothing was rejected
)
"""The answer to a path that contains the given text; other paths get an empty object."""


class Sink(BaseHTTPRequestHandler):
    """Reads a complete request, counts it, and answers with success."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    taken: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()

    def do_GET(self) -> None:
        """Answer a request; `COUNTED` is the sink's own path."""
        if self.path == COUNTED:
            self._say(json.dumps(self.taken).encode())
        else:
            self._say(self._answer())

    def do_POST(self) -> None:
        """Accept the body, and count it."""
        body = self._body()
        with self.lock:
            self.taken.update({"requests": 1, "bytes": len(body)})
        self._say(stored(body) if self.path.endswith("/mlflow/traces") else self._answer())

    do_PUT = do_PATCH = do_POST  # noqa: N815 - names of the standard library

    def _answer(self) -> bytes:
        return next((answer for part, answer in ANSWERS if part in self.path), b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, answer: bytes) -> None:
        kind = "application/x-protobuf" if "/v1/traces" in self.path else "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Log nothing: a log line costs more time than an answer."""


def stored(body: bytes) -> bytes:
    """Answer that the spans are stored, as MLflow does after OTLP; otherwise its client sends them again."""
    payload = json.loads(body)
    payload["trace"]["trace_info"].setdefault("tags", {})["mlflow.trace.spansLocation"] = "TRACKING_STORE"
    return json.dumps(payload).encode()


def main() -> None:
    """Print the address, and serve until the process is killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
