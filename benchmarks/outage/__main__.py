"""Measures which traces arrive, and what an application notices, when servers, networks and disks fail.

    python -m benchmarks.outage [--only NAME ...] [--quick] [--markdown]

It uses a real MLflow server, a proxy that fails in front of it, and real applications in separate processes.
Each row is compared with its promise; the exit code is 1 if one is missed. All scenarios take about half an
hour, --quick two minutes. `--only spool disk` runs all scenarios whose names begin with these words.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.outage import deaths, disks, faults, volume
from benchmarks.outage.trial import ROUNDS, Row, Scenario, Server, SkippedError, Trial, typical_p99
from tests.support.server import DATABASE, empty_database, running_server

SCENARIOS: Sequence[Scenario] = [
    *faults.SCENARIOS,
    *deaths.SCENARIOS,
    *disks.SCENARIOS,
    *volume.SCENARIOS,
]

TOGETHER = 2
"""Number of paced scenarios at a time: they mostly wait. On two cores, more would delay each other's exit."""

COLUMNS = ("scenario", "chain results", "added p99", "exit s", "delivered", "log lines", "promise")


def main() -> int:
    """Run the selected scenarios and print their table; return 1 if a promise is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--only", nargs="+", metavar="NAME", default=[""], help="names, or their first characters"
    )
    options.add_argument(
        "--quick", action="store_true", help="one scenario of each family, without latencies"
    )
    options.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options.add_argument("--list", action="store_true", help="print the names")
    asked = options.parse_args()
    chosen = [one for one in SCENARIOS if one.quick >= asked.quick and is_asked_for(one.name, asked.only)]
    if asked.list:
        print(*(one.name for one in chosen), sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="outage-", ignore_cleanup_errors=True) as folder:
        rows = list(told(measured(chosen, Path(folder), latency=not asked.quick)))
    if asked.markdown:
        print(markdown(rows))
    missed = [row.name for row in rows if row.misses]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} scenarios as promised", *missed, file=sys.stderr)
    return 1 if missed else 0


def is_asked_for(name: str, asked: Sequence[str]) -> bool:
    """Whether a scenario is selected by its name, or by first characters that are not a name themselves."""
    names = {one.name for one in SCENARIOS}
    return any(name == one or (one not in names and name.startswith(one)) for one in asked)


def measured(chosen: Sequence[Scenario], folder: Path, *, latency: bool) -> Iterator[Row]:
    """Start a server and run the scenarios, first those that need the whole machine."""
    (place := folder / "server").mkdir()
    with running_server(place, empty_database(folder)) as address:
        server = Server(address, place / DATABASE)
        untraced = price_of_nothing(server, folder) if latency else None
        for scenario in (one for one in chosen if one.alone):
            yield row_of(scenario, server, folder, untraced)
        with ThreadPoolExecutor(TOGETHER) as pool:
            together = [one for one in chosen if not one.alone]
            yield from pool.map(lambda one: row_of(one, server, folder, untraced), together)


def price_of_nothing(server: Server, folder: Path) -> float:
    """Measure the 99th percentile of an invoke without a tracer, in seconds."""
    (place := folder / "untraced").mkdir()
    with Trial(Scenario("untraced", lambda _trial: None), server, place, None) as trial:
        trial.run_beside()  # the server has just started and is still busy
        return typical_p99([trial.run_beside({"disabled": True}) for _ in range(ROUNDS)])


def row_of(scenario: Scenario, server: Server, folder: Path, untraced: float | None) -> Row:
    """Run one scenario; an error in the scenario counts as a missed promise."""
    (place := folder / scenario.name).mkdir()
    with Trial(scenario, server, place, untraced) as trial:
        try:
            scenario.run(trial)
        except SkippedError as skipped:
            trial.row.skipped = str(skipped)
        except Exception as error:  # noqa: BLE001 - the other scenarios are worth their run
            traceback.print_exc()
            trial.row.misses.append(f"the scenario itself: {type(error).__name__}: {error}")
        return trial.row


def cells(row: Row) -> tuple[str, ...]:
    """Return the columns of a row."""
    return (row.name, row.results, row.latency, row.exit, row.delivered, row.log, row.verdict)


def told(rows: Iterable[Row]) -> Iterator[Row]:
    """Print each row as soon as it is complete."""
    began = time.monotonic()
    for row in rows:
        print(f"{time.monotonic() - began:6.0f} s", *cells(row), sep=" | ", file=sys.stderr, flush=True)
        yield row


def markdown(rows: Iterable[Row]) -> str:
    """Return the table, with the date and the versions."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(cells(row) for row in rows)]
    return "\n".join([measured_with(), "", *(f"| {' | '.join(line)} |" for line in lines)])


def measured_with() -> str:
    """Return date and versions."""
    names = ("langchain-mlflow-tracer", "langchain-core", "mlflow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    today = dt.datetime.now(tz=dt.UTC).date()
    return f"Measured {today} with {versions}, Python {platform.python_version()}, {platform.system()}."


if __name__ == "__main__":
    raise SystemExit(main())
