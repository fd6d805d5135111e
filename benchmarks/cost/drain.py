"""Measures a burst that is sent to a real `mlflow server` with one worker on SQLite.

    python -m benchmarks.cost.drain [--traces 10000] [--environments FOLDER]

Three rates are measured: of this tracer, of MLflow's autolog, and of the same bytes posted without a tracer,
in the same batches over one connection. A rate is measured from the end of the burst, when only sending
continues; the number of stored traces is read from the database. The duration of invokes in a saturated loop
is measured, too: untraced, recorded only, during the bursts, and while a process sends from the queue to a
database.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cost import environments
from benchmarks.cost.crew import hired
from benchmarks.cost.figures import quantile
from langchain_mlflow_tracer.delivery.lane import BATCH
from langchain_mlflow_tracer.encoding.payload import split_attachments
from tests.support.server import DATABASE, empty_database, running_server

BARE_SHARE: Final = 0.9
"""The share of the rate of the bare bytes that this tracer must reach."""

AUTOLOG_TIMES: Final = 8
"""How many times faster than autolog this tracer must be."""

STILL: Final = 8.0
"""Seconds without a new trace after which no more is expected: longer than any request in this test."""

LOOK: Final = 0.05
"""Seconds between two reads of the database."""


PATIENCE: Final = 60.0
"""Seconds in which all recorded traces must be on disk."""


@dataclass(frozen=True)
class Drained:
    """The result of a burst, and the nanoseconds of its invokes."""

    delivered: int
    rate: float
    invokes: Sequence[int]


def main() -> int:
    """Measure and print; return 1 if a bound is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--traces", type=int, default=10_000)
    options.add_argument("--environments", type=Path, default=environments.default_folder())
    asked = options.parse_args()
    lines, kept = measured(asked.traces, asked.environments)
    print(*lines, sep="\n")
    return 0 if kept else 1


def measured(traces: int, made: Path) -> tuple[list[str], bool]:
    """Return the figures and the results of the bounds as lines, and whether all bounds are kept."""
    with tempfile.TemporaryDirectory(prefix="drain-", ignore_cleanup_errors=True) as named:
        folder = Path(named)
        database = empty_database(folder)
        loops = {
            name: undisturbed(name, traces, folder / name, made) for name in ("untraced", "tracer-parked")
        }
        found = {name: burst(name, traces, folder / name, database, made) for name in ("tracer", "autolog")}
        payloads = spooled(folder / "tracer-parked")
        with serving(folder / "bare", database) as address:
            bare = posted(payloads, address)
        shutil.copy(database, folder / "embedded.db")
        beside, left = embedded(traces, folder / "embedded", f"sqlite:///{folder}/embedded.db", made)
    ours, theirs = found["tracer"], found["autolog"]
    kept = {
        f"all of {traces} delivered": ours.delivered == traces,
        f"{AUTOLOG_TIMES} x autolog's rate": ours.rate >= AUTOLOG_TIMES * theirs.rate,
        f"{BARE_SHARE:.0%} of the bare rate": ours.rate >= BARE_SHARE * bare,
    }
    lines = [
        *(f"{name}: {told(one)}" for name, one in loops.items()),
        *(
            f"{name}, a burst: {told(one.invokes)}; {one.delivered} arrived, {one.rate:.0f} a second"
            for name, one in found.items()
        ),
        f"the same bytes bare: {bare:.0f} a second; {statistics.mean(map(len, payloads)):.0f} bytes a trace",
        f"tracer, while {left} traces wait for an embedded store: {told(beside)}",
        *(f"{promise}: {'ok' if is_kept else 'MISSED'}" for promise, is_kept in kept.items()),
    ]
    return lines, all(kept.values())


def told(taken: Sequence[float]) -> str:
    """Return a line about the duration of invokes."""
    return f"invokes p50 {statistics.median(taken) / 1e3:.0f} µs, p99 {quantile(taken, 0.99) / 1e3:.0f} µs"


def undisturbed(name: str, count: int, folder: Path, made: Path) -> list[int]:
    """Return the nanoseconds of invokes while no sender runs; the recorded traces stay in the queue."""
    with hired(name, python_of(name, made), folder) as member:
        taken: list[int] = member.told("invoke", count=count)
        deadline = time.monotonic() + PATIENCE
        while "parked" in name and len(spooled(folder)) < count and time.monotonic() < deadline:
            time.sleep(LOOK)
    return taken


def embedded(count: int, folder: Path, store: str, made: Path) -> tuple[list[int], int]:
    """Return the nanoseconds of invokes while a database is filled, and the number of pending traces."""
    with hired("tracer", python_of("tracer", made), folder, store) as member:
        member.told("invoke", count=count)
        taken: list[int] = member.told("invoke", count=count)
        return taken, len(spooled(folder))


def python_of(name: str, made: Path) -> str:
    """Return the interpreter with the packages that `name` needs."""
    python = environments.interpreter(name, made)
    if python is None:
        raise SystemExit(f"{name} cannot be measured")
    return python


def burst(name: str, count: int, folder: Path, database: Path, made: Path) -> Drained:
    """Run invokes as fast as possible, then wait until no more traces arrive."""
    python = python_of(name, made)
    with serving(folder, database) as address, hired(name, python, folder / "work", address) as member:
        taken = member.told("invoke", count=count)
        began, before = time.monotonic(), stored(folder)
        arrived, ended = watched(folder, count)
        return Drained(arrived, (arrived - before) / max(ended - began, LOOK), taken)


def spooled(folder: Path) -> list[bytes]:
    """Return the payloads in the queue below `folder`."""
    for path in folder.rglob("spool.db"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return [row[0] for row in connection.execute("SELECT payload FROM items ORDER BY id")]
    return []


def posted(payloads: Sequence[bytes], address: str, clients: int = 1) -> float:
    """Return the traces a second that a server accepts from so many clients that only send bytes."""
    spans = [split_attachments(payload)[1] for payload in payloads]
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda first: _post(spans[first::clients], address), range(clients)))
    return len(spans) / (time.monotonic() - began)


def _post(spans: Sequence[bytes], address: str) -> None:
    headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    for at in range(0, len(spans), BATCH):
        connection.request("POST", "/v1/traces", b"".join(spans[at : at + BATCH]), headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(answer.reason)


def watched(folder: Path, count: int) -> tuple[int, float]:
    """Return how many traces arrived, and when the last one arrived."""
    arrived, when = stored(folder), time.monotonic()
    while arrived < count and time.monotonic() < when + STILL:
        time.sleep(LOOK)
        if (now := stored(folder)) > arrived:
            arrived, when = now, time.monotonic()
    return arrived, when


def stored(folder: Path) -> int:
    """Return the number of traces in the server's database."""
    uri = f"file:{folder}/{DATABASE}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM trace_info").fetchone()[0])


@contextlib.contextmanager
def serving(folder: Path, database: Path, **how: Any) -> Iterator[str]:
    """Run a server on a new database in `folder`, as `running_server` does."""
    folder.mkdir(parents=True, exist_ok=True)
    with running_server(folder, database, **how) as address:
        yield address


if __name__ == "__main__":
    raise SystemExit(main())
