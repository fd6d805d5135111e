"""Measures a burst and its delivery into a real `mlflow server` on sqlite with one worker.

    python -m benchmarks.cost.drain [--traces 10000] [--environments FOLDER]

Ours, MLflow's autolog, and the bytes that ours wrote posted bare: in the same batches, over one connection. A
rate counts from the end of the burst, while only the delivery runs. The database is asked what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cost import environments
from benchmarks.cost.crew import hired
from benchmarks.cost.figures import quantile
from langchain_mlflow_tracer.codec import parted
from langchain_mlflow_tracer.lane import BATCH
from tests.server import DATABASE, empty_database, running_server

BARE_SHARE: Final = 0.9
"""Of the rate at which the same bytes go bare, ours must reach so much."""

AUTOLOG_TIMES: Final = 8
"""How many times faster than autolog ours must be."""

STILL: Final = 8.0
"""Seconds without a new trace after which no more is expected: longer than any request takes here."""

LOOK: Final = 0.05
"""Seconds between two looks at the database."""


@dataclass(frozen=True)
class Drained:
    """What became of a burst. Latencies in microseconds, of the invokes during it."""

    delivered: int
    rate: float
    p50: float
    p99: float


def main() -> int:
    """Measure and print; 1 when a bound was missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--traces", type=int, default=10_000)
    options.add_argument("--environments", type=Path, default=environments.default_folder())
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="drain-", ignore_cleanup_errors=True) as named:
        folder = Path(named)
        database = empty_database(folder)
        found = {
            name: burst(name, asked.traces, folder / name, database, asked.environments)
            for name in ("tracer", "autolog")
        }
        payloads = recorded(asked.traces, folder / "parked", asked.environments)
        bare = posted(payloads, folder / "bare", database)
    for name, one in found.items():
        print(f"{name:<10}{one.delivered:>7} of {asked.traces} delivered, {one.rate:.0f} a second;"
              f" invokes during the burst p50 {one.p50:.0f} µs, p99 {one.p99:.0f} µs")  # fmt: skip
    size = statistics.mean(map(len, payloads))
    print(f"bare      {bare:.0f} a second; {size:.0f} bytes a trace of four spans")
    ours, theirs = found["tracer"], found["autolog"]
    kept = {
        "all delivered": ours.delivered == asked.traces,
        f"{AUTOLOG_TIMES} x autolog's rate": ours.rate >= AUTOLOG_TIMES * theirs.rate,
        f"{BARE_SHARE:.0%} of the bare rate": ours.rate >= BARE_SHARE * bare,
    }
    for promise, is_kept in kept.items():
        print(f"{promise}: {'ok' if is_kept else 'MISSED'}")
    return 0 if all(kept.values()) else 1


def burst(name: str, count: int, folder: Path, database: Path, made: Path) -> Drained:
    """Invoke as fast as the process can, then watch what arrives until no more does."""
    python = environments.interpreter(name, made)
    if python is None:
        raise SystemExit(f"{name} cannot be measured")
    with serving(folder, database) as address, hired(name, python, folder / "work", address) as member:
        taken = member.told("invoke", count=count)
        began, before = time.monotonic(), stored(folder)
        arrived, ended = watched(folder, count)
        rate = (arrived - before) / max(ended - began, LOOK)
        return Drained(arrived, rate, statistics.median(taken) / 1e3, quantile(taken, 0.99) / 1e3)


def recorded(count: int, folder: Path, made: Path) -> list[bytes]:
    """Return what ours writes to its spool, without anybody to deliver it."""
    python = environments.interpreter("tracer", made) or sys.executable
    with hired("tracer-parked", python, folder) as member:
        member.told("invoke", count=count)
        deadline = time.monotonic() + 60
        while len(found := spooled(folder)) < count and time.monotonic() < deadline:
            time.sleep(LOOK)
    return found


def spooled(folder: Path) -> list[bytes]:
    """Return the payloads of the spool below `folder`."""
    for path in folder.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return [row[0] for row in connection.execute("SELECT payload FROM items ORDER BY id")]
    return []


def posted(payloads: Sequence[bytes], folder: Path, database: Path) -> float:
    """Return the traces a second that the server takes when nothing but their bytes is sent."""
    spans = [parted(payload)[1] for payload in payloads]
    headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
    with serving(folder, database) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        began = time.monotonic()
        for at in range(0, len(spans), BATCH):
            connection.request("POST", "/v1/traces", b"".join(spans[at : at + BATCH]), headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != http.client.OK:
                raise RuntimeError(answer.reason)
        return len(spans) / (time.monotonic() - began)


def watched(folder: Path, count: int) -> tuple[int, float]:
    """Return how many traces arrived, and when the last did."""
    arrived, when = stored(folder), time.monotonic()
    while arrived < count and time.monotonic() < when + STILL:
        time.sleep(LOOK)
        if (now := stored(folder)) > arrived:
            arrived, when = now, time.monotonic()
    return arrived, when


def stored(folder: Path) -> int:
    """Return how many traces the server's database has."""
    uri = f"file:{folder}/{DATABASE}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM trace_info").fetchone()[0])


@contextlib.contextmanager
def serving(folder: Path, database: Path) -> Iterator[str]:
    """Run a server on a new database in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_server(folder, database) as address:
        yield address


if __name__ == "__main__":
    raise SystemExit(main())
