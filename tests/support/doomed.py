"""Processes that share a spool, with short waits, until they are killed at a random point."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from langchain_mlflow_tracer import MlflowTracer, cli
from langchain_mlflow_tracer.delivery import child, forwarder, process, retry, supervisor
from langchain_mlflow_tracer.encoding import writer
from langchain_mlflow_tracer.spool.spool import Spool
from langchain_mlflow_tracer.tracer import pipeline
from tests.support.kill_point import KillPoint, die
from tests.support.server import wait_for

__all__ = [
    "BOUND",
    "LAST",
    "SPANS",
    "WHEN_DONE",
    "Role",
    "Say",
    "begin",
    "forward",
    "produce",
    "run_doomed",
]

WRITING: Final = {
    "tracer/pipeline": 1_700, "encoding/writer": 800, "encoding/memory_queue": 1_000, "spool/spool": 350,
    "spool/figures": 100, "spool/running": 50, "spool/database": 1_000, "spool/file_lock": 10,
}  # fmt: skip
"""Where processes are killed, and about how many lines of that module a producer executes in its life."""

DELIVERING: Final = {
    "delivery/forwarder": 400, "delivery/lane": 200, "delivery/retry": 10, "spool/spool": 450,
    "spool/running": 250, "spool/database": 1_500, "encoding/unfinished": 20, "delivery/exporter/server": 140,
    "delivery/exporter/http": 120, "delivery/process": 10,
}  # fmt: skip
"""The same for a process that sends."""

SUPERVISING: Final = {"delivery/supervisor": 60}
"""The same for a process that starts a forwarder process."""

WHEN_DONE: Final = "when all was done"
"""The kill point of a process that did not reach another one."""

AT_A_LINE: Final = 0.8
"""The share of processes that die at a line; the others die at some moment."""

LIFE: Final = 1.5
"""Seconds after which every one of them is dead."""

INVOKES: Final = 25
"""Chains that a process runs, unless it dies before."""

SPANS: Final = 4
"""Of the trace of such a chain: a sequence of a prompt, a model and a parser."""

BOUND: Final = 60.0
"""Seconds within which the last process has delivered what is left, on a machine that is busy."""

Say = Callable[[str, str, object], object]
"""Writes an entry of the journal (process, event, value), which is kept however the process ends."""

Role = Callable[[Mapping[str, Any], str, Say, random.Random], None]
"""What a process does, given the tracer's settings, its own name, and what it may leave to chance."""


def begin() -> None:
    """Print nothing, and shorten waits from seconds to milliseconds; the order of steps stays the same."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    logging.disable(logging.CRITICAL)
    hasty: dict[object, tuple[str, float]] = {
        pipeline: ("RUNS_LONG", 0.0), writer: ("TICK", 0.03), forwarder: ("IDLE", 0.02),
        retry: ("FIRST_WAIT", 0.05),
    }  # fmt: skip
    for module, (name, seconds) in hasty.items():
        setattr(module, name, seconds)


def run_doomed(role: Role, settings: Mapping[str, Any], name: str, say: Say, chance: random.Random) -> None:
    """Run a role until its end, or until a random kill point."""
    try:
        begin()
        doom(sides(role, settings), say, chance)
        role(settings, name, say, chance)
    except BaseException:  # noqa: BLE001 - it is told, and nothing may return to the caller's own work
        say(name, "failed", traceback.format_exc())
    say(name, "killed", WHEN_DONE)
    die()


def sides(role: Role, settings: Mapping[str, Any]) -> Sequence[Mapping[str, int]]:
    """Return the modules that a role executes, on each side of the spool."""
    if role is not produce:
        return [DELIVERING]
    beside = {"none": [], "thread": [DELIVERING], "process": [SUPERVISING]}
    return [WRITING, *beside[settings["forwarder"]]]


def doom(of: Sequence[Mapping[str, int]], say: Say, chance: random.Random) -> None:
    """See that this process dies, at a line or at a moment, without a chance to say goodbye."""
    at_a_line = chance.random() < AT_A_LINE
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the system ends it: no Python runs
    signal.setitimer(signal.ITIMER_REAL, LIFE if at_a_line else chance.uniform(0.01, LIFE))
    if at_a_line:
        module, most = chance.choice(list(chance.choice(of).items()))
        lines = round(most ** chance.random())  # as many in the first ten as in the last thousands
        KillPoint(module, lines).arm(lambda place: say("", "killed", place))


# Producers.


def produce(settings: Mapping[str, Any], name: str, say: Say, chance: random.Random) -> None:
    """Run chains; sometimes with one beside them that has no end, sometimes in a forked child too."""
    patch.object(supervisor, "Child", lambda *_: Forked(settings, name, say, chance)).start()
    sync = chance.random() < 0.5
    tracer = MlflowTracer(**settings, durability="sync" if sync else "background")
    if chance.random() < 0.7:
        threading.Thread(target=never_end, args=(tracer, f"{name}-open", say), daemon=True).start()
    run_chains(tracer, name, range(1, INVOKES + 1), say, sync=sync)
    if chance.random() < 0.3:
        first = INVOKES + 1
        if os.fork() == 0:
            name, first = f"{name}-forked", 1
            doom(sides(produce, settings), say, chance)
        run_chains(tracer, name, range(first, first + INVOKES), say, sync=sync)


def run_chains(tracer: MlflowTracer, name: str, numbers: range, say: Say, *, sync: bool) -> None:
    """Run chains, and tell after each one how many of this process are in the spool: the first ones."""
    prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
    chain = prompt | FakeListChatModel(responses=["answer"]) | StrOutputParser()
    for number in numbers:
        trace = f"{name}-{number}"
        say(name, "began", trace)
        question = "?" * (60_000 if number % 5 == 0 else 50)
        config: Any = {"callbacks": [tracer], "run_name": trace}
        assert chain.invoke({"question": question}, config) == "answer"
        say(name, "returned", trace)
        say(name, "in the spool", number if sync else tracer.stats()["spooled"])


def never_end(tracer: MlflowTracer, name: str, say: Say) -> None:
    """Run a chain whose second step does not end."""
    forever = threading.Event()
    say(name, "began", name)
    steps = RunnableLambda(len) | RunnableLambda(lambda _: forever.wait())
    steps.invoke("four", {"callbacks": [tracer], "run_name": name})


# Deliverers.


def forward(settings: Mapping[str, Any], *_: object) -> None:
    """Deliver as a sidecar does."""
    command(settings, "--watch")


def forward_for_parent(settings: Mapping[str, Any], *_: object) -> None:
    """Deliver as the process does that a tracer starts."""
    process.main(settings["spool_dir"])


class Forked(child.Child):
    """Such a process, but forked: a new Python takes long to start."""

    def __init__(self, settings: Mapping[str, Any], name: str, say: Say, chance: random.Random) -> None:
        self._began = time.monotonic()
        self._code: int | None = None
        reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writing)
            os.dup2(reading, sys.stdin.fileno())
            run_doomed(forward_for_parent, settings, f"{name}-forwarder", say, chance)
        os.close(reading)

    @property
    def code(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def reports(self) -> Iterator[tuple[str, str, int]]:
        return iter(())

    def detach(self) -> None:
        self.inherit()

    def inherit(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._writing)

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._writing, line)


# The last process.


def forward_once(settings: Mapping[str, Any]) -> None:
    """Deliver as an operator does."""
    command(settings, "--timeout", str(BOUND))


def forward_without_parent(settings: Mapping[str, Any]) -> None:
    """Deliver as the process does whose parent has gone."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    assert process.main(settings["spool_dir"]) == 0


def use_again(settings: Mapping[str, Any]) -> None:
    """Deliver as the application does that starts next."""
    tracer = MlflowTracer(**{**settings, "forwarder": "thread"})
    spool = Spool(Path(settings["spool_dir"]), settings["spool_max_bytes"])
    wait_for(spool.figures.is_empty, BOUND)
    assert tracer.close(timeout=BOUND)


LAST: Final = (forward_once, forward_without_parent, use_again)


def command(settings: Mapping[str, Any], *arguments: str) -> None:
    code: object = 0
    try:
        cli.main(["forward", "--spool-dir", str(settings["spool_dir"]), *arguments], standalone_mode=False)
    except SystemExit as ended:
        code = ended.code
    assert not code, f"exit code {code}"
