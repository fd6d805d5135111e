"""Runs one scenario: its environment, its applications, and the checks of the promises."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.application import TOKENS
from tests.support.proxy import HEALTHY, REFUSING, Fault, FaultProxy

__all__ = [
    "EXIT_PROMISE",
    "ROUNDS",
    "Application",
    "Invoke",
    "Row",
    "Scenario",
    "Server",
    "SkippedError",
    "Trial",
    "counted_as_lost",
    "last_moments",
    "rows_of",
    "typical_p99",
    "wait_until",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]

EXIT_PROMISE = 2.5
"""Seconds: `exit_timeout`, two by default, and half a second."""

LATENCY_PROMISE = 1.2
"""Maximum cost of an invoke at the 99th percentile, as a multiple of the cost with a healthy server."""

LOG_INTERVAL = 60.0
"""Seconds between two log lines of one cause."""

ROUNDS = 3
INVOKES = 1_000
"""Processes of one kind, and their invokes, to compare latencies; with fewer the machine decides."""

CLOCK_SLACK = 0.1
"""Seconds that the clock of the log and the clock of the tracer may differ over a minute."""

SINCE = " (%d since the last such line)"
"""What the tracer adds to a line that counts several events."""

LAST_MOMENTS = 0.05
"""Seconds before its end of which a killed process may lose the traces, with durability "background"."""

SPANS = 4
"""Spans of one run of the application's chain."""

NEXT_PROCESS = 60.0
"""Seconds for the next process to send what is left: no promise, and all scenarios need less."""

QUIET = 20.0
"""Seconds without a new trace until no more are expected: time for an import, a wait, a large request."""

HUNG = 60.0
"""Seconds after which a process that should have ended counts as hanging and is killed."""

POLL = 0.05
"""Seconds between two checks."""


class SkippedError(Exception):
    """A scenario cannot be run on this machine; the message says why."""


@dataclass(frozen=True)
class Invoke:
    """An invoke that returned: its trace, how long it took and when it ended (seconds), and where."""

    id: str
    took: float
    ended: float
    pid: int


@dataclass(frozen=True)
class Server:
    """A real MLflow server, and its database."""

    address: str
    database: Path

    def complete(self, experiment: str) -> dict[str, bool]:
        """Return the traces of an experiment, and whether each has all its spans and correct tokens."""
        statement = (
            "SELECT request_id, total_tokens, (SELECT count(*) FROM spans WHERE trace_id = request_id)"
            " FROM trace_info JOIN experiments USING (experiment_id) WHERE name = ?"
        )
        rows = rows_of(self.database, statement, experiment)
        return {key: (tokens, spans) == (TOKENS, SPANS) for key, tokens, spans in rows}


@dataclass
class Row:
    """A row of the table: the figures, and the missed promises."""

    name: str
    results: str = ""
    latency: str = ""
    exit: str = ""
    delivered: str = ""
    log: str = ""
    misses: list[str] = field(default_factory=list)
    skipped: str = ""

    def hold(self, kept: bool, promise: str) -> None:  # noqa: FBT001 - the promise is the name
        """Note a promise as missed unless it was kept."""
        if not kept and promise not in self.misses:
            self.misses.append(promise)

    def say(self, delivered: str) -> None:
        """Add a text to the column about arrived traces."""
        self.delivered = "; ".join(filter(None, (self.delivered, delivered)))

    @property
    def verdict(self) -> str:
        """Ok, skipped, or the missed promises."""
        return self.skipped or ("EXCEEDED: " + "; ".join(self.misses) if self.misses else "ok")


@dataclass(frozen=True)
class Scenario:
    """A scenario, which fills a row of the table."""

    name: str
    run: Callable[[Trial], None]
    quick: bool = False
    alone: bool = True
    """Whether it needs the whole machine: paced applications, which mostly wait, do not."""
    tls: bool = False
    named: bool = False
    """Whether the server has a host name, which cannot be resolved at first."""


class Application:
    """A process of `tests.support.application` with its journal, its result and its log."""

    def __init__(self, folder: Path, environ: Mapping[str, str], job: dict[str, Any]) -> None:
        self._folder = folder
        folder.mkdir()
        job = {**job, "journal": str(folder / "journal"), "last_words": str(folder / "stats")}
        command = [sys.executable, "-m", "tests.support.application", json.dumps(job, default=str)]
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environ, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr
            )

    def invokes(self) -> list[Invoke]:
        """Return the finished invokes, in their order."""
        journal = self._folder / "journal"
        lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        return [Invoke(**json.loads(line)) for line in lines if line.endswith(b"\n")]

    def ids(self) -> set[str]:
        """Return the traces of the finished invokes."""
        return {invoke.id for invoke in self.invokes()}

    def end(self) -> float:
        """Wait for its end, and return the seconds after the end of `main()`; infinity if it hangs."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(HUNG)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return math.inf
        gone = time.time()
        return gone - float(self.said.get("done", gone))

    @property
    def said(self) -> dict[str, Any]:
        """Its result, if it printed one."""
        text = (self._folder / "stdout").read_text()
        said: dict[str, Any] = json.loads(text) if text.endswith("\n") else {}
        return said

    def counts(self) -> dict[str, Any]:
        """Return the counts of its tracer at the exit of the interpreter; nothing if it was killed."""
        file = self._folder / "stats"
        counts: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return counts

    def lines(self) -> list[str]:
        """Return its log."""
        return (self._folder / "stderr").read_text().splitlines()


class Trial:
    """The environment of a scenario: a proxy of the server, a spool, and an experiment.

    `untraced` is what an invoke takes without a tracer, at the 99th percentile; None: nobody wants to know.
    """

    def __init__(self, scenario: Scenario, server: Server, folder: Path, untraced: float | None) -> None:
        self.row = Row(scenario.name)
        self.folder = folder
        self.spool_dir = folder / "spool"
        self.hosts = folder / "hosts"
        self.proxy = FaultProxy(server.address, tls=scenario.tls)
        self.uri = f"http://mlflow.invalid:{self.proxy.port}" if scenario.named else self.proxy.address
        self._server = server
        self._untraced = untraced
        self._named = scenario.named
        self._started: list[Application] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for application in self._started:
            if application.process.poll() is None:
                application.process.kill()
            application.end()
        self.proxy.__exit__(kind, error, trace)

    # What happens.

    def fail(self, fault: Fault) -> None:
        """Make the server fail from now on."""
        if self._named:
            self.hosts.unlink(missing_ok=True)
        # Close the old address, too: open connections do not need the name.
        self.proxy.fault = REFUSING if self._named else fault

    def heal(self) -> None:
        """Make the server reachable and healthy."""
        self.hosts.touch()
        self.proxy.fault = HEALTHY

    def start(self, count: int = 200, settings: dict[str, Any] | None = None, **how: Any) -> Application:
        """Start an application on this spool and server."""
        tracer = {"tracking_uri": self.uri, "experiment": self.row.name, "spool_dir": self.spool_dir}
        if self._named:  # the name resolves in the application only, not in its sender process
            tracer["forwarder"] = "thread"
        environ: dict[str, str] = how.pop("environ", {})
        job = {"settings": {**tracer, **(settings or {})}, "count": count, "hosts": self.hosts, **how}
        folder = self.folder / f"application-{len(self._started)}"
        application = Application(folder, {**self._environ(), **environ}, job)
        self._started.append(application)
        return application

    def run_beside(self, settings: dict[str, Any] | None = None) -> Application:
        """Run an application whose traces are not checked: only its latency is measured."""
        place = self.folder / f"beside-{len(self._started)}"
        beside = {"spool_dir": place, "experiment": "beside", **(settings or {})}
        application = self.start(INVOKES, beside)
        application.end()
        return application

    def _environ(self) -> dict[str, str]:
        """An environment without settings of this machine's."""
        alien = ("MLFLOW_", "LANGCHAIN_", "LANGSMITH_", "XDG_", "COVERAGE_")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(alien) and not name.lower().endswith("_proxy")
        }
        own = {"PYTHONPATH": str(ROOT), "MLFLOW_MODEL_CATALOG_URI": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
        if self.proxy.certificate is not None:
            own["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(self.proxy.certificate)
        return kept | own

    def run(self, count: int = 200, **how: Any) -> Application:
        """Run an application to its end, and check its results, its exit and its log."""
        application = self.start(count, **how)
        took = application.end()
        self.hold_results(application, count)
        self.hold_exit(took, application)
        return application

    def deliver_the_rest(self, wanted: Iterable[str]) -> Application:
        """Let the server recover and start the next process, which runs until all traces have arrived."""
        self.heal()
        following = self.start(1, end="wait")
        wait_until(lambda: following.invokes() or following.process.poll() is not None, NEXT_PROCESS)
        while wait_until(functools.partial(self._changed, self.lost(wanted), wanted), QUIET):
            if not self.lost(wanted):
                break
        following.end()
        return following

    def _changed(self, lost: set[str], wanted: Iterable[str]) -> bool:
        return not lost or self.lost(wanted) != lost

    # The results.

    @property
    def database(self) -> Path:
        """The file of the queue."""
        (database,) = self.spool_dir.glob("*.db")
        return database

    def waiting(self) -> list[str]:
        """Return the pending traces, oldest first."""
        return [key for (key,) in rows_of(self.database, "SELECT key FROM items ORDER BY id")]

    def dead_letters(self) -> dict[str, str]:
        """Return the rejected traces, with the reasons."""
        return dict(rows_of(self.database, "SELECT key, reason FROM dead_letters"))

    def delivered(self, wanted: Iterable[str]) -> int:
        """Number of these traces that are complete on the server."""
        stored = self._server.complete(self.row.name)
        return sum(stored.get(trace_id, False) for trace_id in set(wanted))

    def lost(self, wanted: Iterable[str]) -> set[str]:
        """The traces that are not on the server, or not complete."""
        stored = self._server.complete(self.row.name)
        return {trace_id for trace_id in wanted if not stored.get(trace_id)}

    def strangers(self) -> set[str]:
        """Traces on the server that no application has reported."""
        made = set[str]().union(*(application.ids() for application in self._started))
        return set(self._server.complete(self.row.name)) - made

    # The checks.

    def hold_results(self, application: Application, count: int) -> None:
        """Check that every invoke returned; the application checks the answers, and ends if one is wrong."""
        right = len(application.invokes())
        self.row.results = "all right" if right >= count else f"{right} of {count}"
        self.row.hold(right >= count, "chain results")

    def hold_exit(self, seconds: float, application: Application) -> None:
        """Check that the application and its children ended in time."""
        last = {str(invoke.pid): invoke.ended for invoke in application.invokes()}
        gone: dict[str, float] = application.said.get("gone", {})
        worst = max([seconds, *(when - last.get(child, when) for child, when in gone.items())])
        self.row.exit = f"{worst:.2f}"
        self.row.hold(worst <= EXIT_PROMISE, f"exit within {EXIT_PROMISE} s")

    def hold_latency(self, fault: Fault) -> None:
        """Check that the overhead of an invoke is the same as with a healthy server."""
        if self._untraced is None:
            return
        failing: list[Application] = []
        healthy: list[Application] = []
        for _ in range(ROUNDS):  # in turns, because the load of the machine changes
            self.fail(fault)
            failing.append(self.run_beside())
            self.heal()
            healthy.append(self.run_beside())
        added, usual = (typical_p99(runs) - self._untraced for runs in (failing, healthy))
        self.row.latency = f"{added * 1000:+.2f} ms, healthy {usual * 1000:+.2f} ms"
        self.row.hold(added <= usual * LATENCY_PROMISE, f"p99 within {LATENCY_PROMISE} x healthy")

    def hold_log(self, *applications: Application, failed: bool = True, stray: bool = False) -> None:
        """Check the log: at most a line a minute for each cause and process, at least one after a failure.

        With `stray`, what the interpreter itself prints is expected.
        """
        lines = [line.split("\t") for one in applications for line in one.lines()]
        ours = [(float(line[0]), (line[1], _cause(*line[2:]))) for line in lines if len(line) == 4]  # noqa: PLR2004
        self.row.log = str(len(lines) if not stray else len(ours))
        self.row.hold(stray or len(ours) == len(lines), "lines that are not ours")
        self.row.hold(bool(ours) or not failed, "a line where something failed")
        self.row.hold(not _too_often(ours), f"a line every {LOG_INTERVAL:g} s for each cause")

    def hold_delivered(self, wanted: Iterable[str], may_lose: Iterable[str] = (), counted: int = 0) -> None:
        """Check that every trace is complete on the server, except those that may be lost or are counted."""
        wanted, excused = set(wanted), set(may_lose)
        lost = self.lost(wanted)
        counts = f"{len(wanted) - len(lost)} of {len(wanted)}"
        if excused:
            counts += f", {len(lost & excused)} of {len(excused)} that may be lost were"
        if counted:
            counts += f", {counted} counted as lost"
        silent = len(lost - excused) - counted
        self.row.say(counts)
        self.row.hold(silent <= 0, f"{silent} traces lost silently")

    def hold_strangers(self) -> None:
        """Check that the server has no other traces."""
        strangers = len(self.strangers())
        self.row.hold(not strangers, f"{strangers} traces that nobody made")


def last_moments(application: Application) -> set[str]:
    """The traces that a killed process may lose: those that ended just before."""
    invokes = application.invokes()
    died = max((invoke.ended for invoke in invokes), default=0.0)
    return {invoke.id for invoke in invokes if invoke.ended > died - LAST_MOMENTS}


def counted_as_lost(application: Application) -> int:
    """Number of traces that the tracer reports as dropped or rejected."""
    stats = application.counts()
    causes = stats.get("dropped")
    if causes is None:
        causes = {cause: count for cause, count in stats.items() if cause.startswith("dropped_")}
    return int(sum(causes.values())) + int(stats.get("dead_letters", 0))


def rows_of(database: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Read from an SQLite file that other processes write."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(statement, values).fetchall()


def wait_until(condition: Callable[[], object], timeout: float) -> bool:
    """Wait until `condition` holds, at most `timeout` seconds; return whether it did."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)
    return True


def typical_p99(applications: Iterable[Application]) -> float:
    """Return the median of the applications' 99th percentiles: a busy machine may have slowed one of them."""
    return statistics.median(p99(invoke.took for invoke in one.invokes()) for one in applications)


def p99(values: Iterable[float]) -> float:
    """Return the 99th percentile: at most one of a hundred values is above it."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)] if ordered else math.inf


def _cause(template: str, text: str) -> str:
    """The key of a cause: the template of the line; for lines of another process, the first words."""
    return text.partition(":")[0] if template == "%s" else template


def _too_often(lines: Iterable[tuple[float, tuple[str, str]]]) -> bool:
    """Whether two lines about one cause, of one process, are less than a minute apart."""
    said: dict[tuple[str, str], float] = {}
    for when, (pid, template) in sorted(lines):
        cause = (pid, template.removesuffix(SINCE))
        if when - said.get(cause, -math.inf) < LOG_INTERVAL - CLOCK_SLACK:
            return True
        said[cause] = when
    return False
