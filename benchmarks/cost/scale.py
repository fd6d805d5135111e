"""Measures the capacity of one server, one sender process and one queue: the figures of "Scale".

    python -m benchmarks.cost.scale [--traces 2000] [--environments FOLDER]

Servers receive the bytes of traces from as many clients as they have workers. A sender process sends the
traces of a queue to a server with one worker.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.cost import environments, postgres, weight
from benchmarks.cost.crew import hired
from benchmarks.cost.drain import posted, python_of, serving, spooled, stored, undisturbed
from langchain_mlflow_tracer.settings.child_process import child_environment
from tests.support.server import empty_database, wait_for

ROUNDS: Final = 40
"""Rounds of the agent whose traces are measured."""

AGENTS: Final = 50
"""Number of its traces."""

IDLE: Final = 5.0
"""Seconds for which an idle sender is measured."""

OUTAGE_RATES: Final = (1, 10, 100)
"""Traces a second, for an hour."""

BOUND: Final = 300.0
"""Seconds in which a queue must become empty."""


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--traces", type=int, default=2_000)
    options.add_argument("--environments", type=Path, default=environments.default_folder())
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True) as named:
        folder = Path(named)
        undisturbed("tracer-parked", asked.traces, folder / "parked", asked.environments)
        payloads = spooled(folder / "parked")
        disk(folder, payloads, asked.environments)
        database = empty_database(folder)
        servers(folder, database, payloads, asked.environments)
        forwarder(asked.traces, folder / "forwarder", database, asked.environments)
    return 0


def disk(folder: Path, payloads: Sequence[bytes], made: Path) -> None:
    """Print the size of traces in the queue, and of an outage of an hour."""
    with hired("tracer-parked", python_of("tracer", made), folder / "agents") as member:
        member.told("agent", count=AGENTS, rounds=ROUNDS)
        wait_for(lambda: len(spooled(folder / "agents")) == AGENTS, BOUND)
    small, agent = (
        _file(folder / name, count) for name, count in (("parked", len(payloads)), ("agents", AGENTS))
    )
    print(f"a trace of four spans: {statistics.mean(map(len, payloads)):.0f} bytes, {small:.0f} on disk;"
          f" of an agent of {ROUNDS} rounds: {agent:.0f} on disk")  # fmt: skip
    for rate in OUTAGE_RATES:
        print(f"an hour at {rate} a second: {small * rate * 3600 / 1e6:.0f} MB, of such agents"
              f" {agent * rate * 3600 / 1e6:.0f} MB")  # fmt: skip


def _file(folder: Path, count: int) -> float:
    """Return the bytes of the queue's file and log for each trace."""
    return sum(path.stat().st_size for path in folder.rglob("spool.db*") if path.suffix != ".db-shm") / count


def servers(folder: Path, database: Path, payloads: Sequence[bytes], made: Path) -> None:
    """Print the rates of servers with one and two workers, on SQLite and on PostgreSQL."""
    half = len(payloads) // 2
    python = environments.interpreter("postgres", made)
    with postgres.running() as store:
        for workers, part in ((1, payloads[:half]), (2, payloads[half:])):
            name = f"sqlite, {workers} workers"
            with serving(folder / name, database, workers=workers) as address:
                print(f"{name}: {taken(part, address, workers)}")
            name = f"PostgreSQL, {workers} workers"
            if store is None or python is None:
                print(f"{name}: not measured, there is none here")
                continue
            with serving(folder / name, database, workers=workers, store=store, python=python) as address:
                print(f"{name}: {taken(part, address, workers)}")


def taken(part: Sequence[bytes], address: str, clients: int) -> str:
    """Return a line about the rate of a server, and its CPU."""
    session = weight.session_with(address.rpartition(":")[2])
    warm, rest = part[: len(part) // 10], part[len(part) // 10 :]
    posted(warm, address, clients)  # a warm-up: modules and caches are loaded
    before = weight.cpu(session)
    rate = posted(rest, address, clients)
    used = (weight.cpu(session) - before) / len(rest) * 1e3
    return f"{rate:.0f} traces a second, {used:.1f} ms of the server's CPU for each"


def forwarder(count: int, folder: Path, database: Path, made: Path) -> None:
    """Print the memory and CPU of a sender process: to start, to send, and when idle."""
    python = python_of("tracer", made)
    (folder / "empty").mkdir(parents=True)
    with started(python, folder / "empty") as process:
        time.sleep(IDLE)
        print(f"a forwarder process before a server answers: {weight.resident(process) / 1e6:.0f} MB")
    with serving(folder, database) as address:
        with hired("tracer-parked", python, folder / "work", address) as member:
            member.told("invoke", count=count)
            wait_for(lambda: len(spooled(folder / "work")) == count, BOUND)
        spool = next((folder / "work").rglob("spool.db")).parent
        with started(python, spool) as process:
            wait_for(lambda: stored(folder) >= count // 10, BOUND)
            begun, first = weight.cpu(process), stored(folder)
            wait_for(lambda: stored(folder) == count, BOUND)
            each = (weight.cpu(process) - begun) / (count - first) * 1e3
            time.sleep(IDLE)  # its last request must have ended
            before, held = weight.cpu(process), weight.resident(process)
            time.sleep(IDLE)
            idle = (weight.cpu(process) - before) / IDLE
    print(f"then {held / 1e6:.0f} MB, {begun:.1f} s of CPU to begin, {each:.2f} ms for each trace")
    print(f"idle {idle:.1%} of a core")


@contextlib.contextmanager
def started(python: str, spool: Path) -> Iterator[int]:
    """Run a sender process for a queue; yield its process id, which is also its session id."""
    command = [python, "-m", "langchain_mlflow_tracer.delivery.process", str(spool)]
    environ = child_environment({})
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environ, start_new_session=True)
    try:
        yield process.pid
    finally:
        process.communicate()


if __name__ == "__main__":
    raise SystemExit(main())
