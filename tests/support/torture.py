"""Kills processes at random points of the writer, the spool and the forwarder, and looks for what is lost.

    python -m tests.support.torture [--kills 1000] [--real 50] [--seed N] [--seconds S] [--round N]

A round has a spool of its own. In each of its waves some processes use it, and all of them are killed: at the
n-th line that they execute of some module, at some moment, or when all is done. Then one more process
delivers what is left, and what has arrived is compared with what the killed ones were promised. Exit code 1
when anything is not as it should be; the seed and the number of the round lead there again, as far as threads
do the same again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from langchain_mlflow_tracer.delivery.exporter.mlflow_import import import_mlflow
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.support import doomed, kept
from tests.support.kept import FLAKY, KeptTrace
from tests.support.server import empty_database, running_server

WAVES: Final = 2

ROOMY: Final = 2**30
"""Bytes of a spool that never fills."""

SMALL: Final = 2**20
"""Bytes of a spool that does."""

JOURNAL: Final = "journal"
"""The file in which processes write down what they did."""


@dataclass(frozen=True)
class Plan:
    """What a round is about; everything else in it is left to `chance`."""

    number: int
    folder: Path
    server: str
    is_real: bool
    forwarder: str
    max_bytes: int
    chance: random.Random = field(repr=False)

    @classmethod
    def of(cls, seed: int, number: int, folder: Path, server: str, *, is_real: bool) -> Plan:
        chance = random.Random(f"{seed} {number}")  # noqa: S311 - no secret
        kind = chance.choice(["well", FLAKY])
        return cls(
            number=number,
            folder=folder,
            server=server if is_real else f"{server}/{number}/{kind}",
            is_real=is_real,
            forwarder=chance.choice(["thread", "process", "sidecar", "none"]),
            max_bytes=SMALL if chance.random() < 0.2 else ROOMY,
            chance=chance,
        )

    @property
    def experiment(self) -> str:
        return f"round-{self.number}"

    @property
    def spool_dir(self) -> Path:
        return self.folder / "spool"

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "tracking_uri": self.server,
            "experiment": self.experiment if self.is_real else None,
            "spool_dir": self.spool_dir,
            "spool_max_bytes": self.max_bytes,
            "forwarder": "none" if self.forwarder == "sidecar" else self.forwarder,
        }

    def kept(self) -> list[KeptTrace]:
        """Return the stored traces; a child process reads them, because MLflow's client starts threads."""
        if self.is_real:
            arrived: list[KeptTrace] = result_of_child(lambda: kept.in_mlflow(self.server, self.experiment))
            return arrived
        return kept.in_stand_in(self.server)


@dataclass
class Journal:
    """What the processes of a round wrote down before they died."""

    began: set[str] = field(default_factory=set)
    promised: set[str] = field(default_factory=set)
    kills: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Journal:
        journal, returned = cls(), defaultdict[str, list[str]](list)
        for who, what, value in map(json.loads, file.read_text().splitlines()):
            match what:
                case "began":
                    journal.began.add(value)
                case "returned":
                    returned[who].append(value)
                case "in the spool":
                    journal.promised.update(returned[who][:value])
                case "killed":
                    journal.kills.append(value)
                case _:
                    journal.failures.append(f"{who} {what}: {value}")
        return journal


@dataclass
class Result:
    """What a round came to."""

    kills: Counter[str] = field(default_factory=Counter)
    traces: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def random_kills(self) -> int:
        return self.kills.total() - self.kills[doomed.WHEN_DONE]


class Round:
    """Plays one round to its end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._moments = 0
        self._left_running: list[Item] = []

    def play(self) -> Result:
        result = Result()
        for wave in range(WAVES):
            self._wave(wave)
        journal = Journal.read(self._plan.folder / JOURNAL)
        result.problems += journal.failures
        try:
            self._check_spool()
            self._deliver_rest()
            self._compare(journal, result)
        except Exception:  # noqa: BLE001 - whatever it is, it is a problem of this round
            result.problems.append(traceback.format_exc())
        result.kills.update(journal.kills)
        result.kills["at some moment"] += self._moments
        return result

    # Killing.

    def _wave(self, number: int) -> None:
        plan = self._plan
        roles: list[doomed.Role] = [doomed.produce] * plan.chance.randint(2, 4)
        if plan.forwarder == "sidecar":
            roles.append(doomed.forward)
        reading, writing = os.pipe()
        children = [self._start(role, f"{number}.{place}") for place, role in enumerate(roles)]
        os.close(writing)
        # The other end is closed when the last process is dead that was forked meanwhile, by whomever.
        dead, _, _ = select.select([reading], [], [], doomed.BOUND)
        os.close(reading)
        assert dead, f"a process of wave {number} does not die: {children}"
        signals = [os.WTERMSIG(os.waitpid(child, 0)[1]) for child in children]
        self._moments += signals.count(signal.SIGALRM)

    def _start(self, role: doomed.Role, name: str) -> int:
        chance = random.Random(self._plan.chance.random())  # noqa: S311 - no secret
        child = os.fork()
        if child == 0:
            doomed.run_doomed(role, self._plan.settings, name, self._say(), chance)
        return child

    def _say(self) -> doomed.Say:
        log = os.open(self._plan.folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return lambda *said: os.write(log, f"{json.dumps(said)}\n".encode())

    # What is left.

    def _check_spool(self) -> None:
        """Check, when all its processes are dead, that the file is undamaged and nobody holds its lock."""
        with self._opened() as spool:
            assert spool._database.rows("PRAGMA integrity_check") == [("ok",)]
            right = spool.drain()
            assert right is not None, "a dead process holds the drain lock"
            right.release()
            self._left_running = spool.running.of_dead_processes()
            assert len(self._left_running) == spool.figures.totals().running, (
                "a dead process seems to be alive"
            )

    def _deliver_rest(self) -> None:
        plan = self._plan
        if not plan.is_real:
            kept.make_well(plan.server)
        last = plan.chance.choice(doomed.LAST)
        result_of_child(lambda: last(plan.settings))
        with self._opened() as spool:
            totals = spool.figures.totals()
            assert spool.figures.is_empty(), f"{totals} after {last.__name__}"
            assert totals.dead == 0

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Spool]:
        spool = Spool(self._plan.spool_dir, ROOMY, repairs=False)
        yield spool
        spool.close()

    def _compare(self, journal: Journal, result: Result) -> None:
        with self._opened() as spool:
            ((dropped,),) = spool._database.rows("SELECT coalesce(sum(count), 0) FROM losses")
        arrived = self._plan.kept()
        assert not dropped or self._plan.max_bytes == SMALL, f"{dropped} dropped without need"
        cut_off = {trace.id for trace in arrived if trace.is_cut_off}
        result.problems += violations(journal, arrived, dropped)
        result.problems += [
            f"{item.key} was left running" for item in self._left_running if item.key not in cut_off
        ]
        result.traces.update(
            began=len(journal.began), promised=len(journal.promised), delivered=len(arrived),
            cut_off=len(cut_off), dropped=dropped,
        )  # fmt: skip


def violations(journal: Journal, found: Sequence[KeptTrace], dropped: int) -> Iterator[str]:
    """Yield what is not as it should be in what has arrived."""
    for name, times in Counter(trace.name for trace in found).items():
        if times > 1 or name not in journal.began:
            yield f"{name} arrived as {times} traces"
    for trace in found:
        is_whole = trace.is_complete and len(trace.outcomes) == doomed.SPANS
        if not (is_whole or trace.is_cut_off or trace.is_running):
            yield f"not whole: {trace}"
    # One that was shown while it ran, and dropped when it had ended, stays as it was shown.
    stays_running = {trace.name for trace in found if trace.is_running}
    missing = stays_running | journal.promised - {trace.name for trace in found if trace.is_complete}
    if len(missing) > dropped:
        yield f"{len(missing)} lost, {dropped} dropped and counted: {sorted(missing)}"


def result_of_child(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a forked child."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        _tell(writing, work)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        content = answer.read()
    os.wait()
    error, returned = pickle.loads(content)  # noqa: S301 - our own child's
    assert error is None, error
    return returned


def _tell(writing: int, work: Callable[[], object]) -> None:
    doomed.begin()
    error = returned = None
    try:
        returned = work()
    except BaseException:  # noqa: BLE001 - nothing may return to the parent's work
        error = traceback.format_exc()
    with os.fdopen(writing, "wb") as answer:
        answer.write(pickle.dumps((error, returned)))
    os._exit(0)


# The command.


class Torture:
    """Plays rounds until there were kills enough, and sums up."""

    def __init__(self, seed: int, folder: Path, deadline: float) -> None:
        self._seed, self._folder, self._deadline = seed, folder, deadline
        self._sum = Result()
        self.rounds = 0

    def play_rounds(self, server: str, kills: int, *, is_real: bool = False, only: int | None = None) -> None:
        """Play until `kills` more processes were killed; or round `only`."""
        enough = self._sum.random_kills + kills
        while self._sum.random_kills < enough and not self._is_over:
            number = self.rounds if only is None else only
            folder = self._folder / f"round-{number}"
            folder.mkdir()
            self._add(Plan.of(self._seed, number, folder, server, is_real=is_real))
            if only is not None:
                return

    @property
    def _is_over(self) -> bool:
        return bool(self._sum.problems) or time.monotonic() >= self._deadline

    def _add(self, plan: Plan) -> None:
        result = Round(plan).play()
        self.rounds += 1
        self._sum.kills += result.kills
        self._sum.traces += result.traces
        if result.problems:
            again = f"--seed {self._seed} --round {plan.number} {'--kills 0' if plan.is_real else '--real 0'}"
            self._sum.problems += [f"{plan}", *result.problems, *sorted(result.kills), f"again: {again}"]

    def report(self) -> int:
        """Print what was done; return the exit code."""
        places = Counter[str]()
        for place, count in self._sum.kills.items():
            places[place.partition(":")[0]] += count
        lines = len([place for place in self._sum.kills if ":" in place])
        kills = self._sum.random_kills
        print(f"{kills} random kills in {self.rounds} rounds, at {lines} different lines; seed {self._seed}")
        for place, count in places.most_common():
            print(f"  {count:>6}  {place}")
        for what, count in self._sum.traces.items():
            print(f"  {count:>6}  traces {what.replace('_', ' ')}")
        print("\n".join(self._sum.problems) or "no trace was lost or stored twice, and no lock is left")
        return 1 if self._sum.problems else 0


def main() -> int:
    """Read the command line and torture."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.torture", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=1_000, help="processes to kill at random (%(default)s)")
    parser.add_argument("--real", type=int, default=50, help="and before a real MLflow server (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3_600.0, help="at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--round", type=int, help="only that one of the seed")
    asked = parser.parse_args()
    import_mlflow()  # once, not by every child
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    torture = Torture(asked.seed, folder, time.monotonic() + asked.seconds)
    with kept.stand_in() as server:
        torture.play_rounds(server, asked.kills, only=asked.round)
    if asked.real:
        with running_server(folder, empty_database(Path(tempfile.mkdtemp(dir=folder)))) as server:
            torture.play_rounds(server, asked.real, is_real=True, only=asked.round)
    code = torture.report()
    if not code:  # otherwise there is something to look at
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
