"""An application as people write them, run in a process of its own: `python -m tests.support.application`.

Its argument is JSON, the parameters of `main`. Prints one line of JSON when its main job is done.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from tests.support.family import FAMILIES
from tests.support.server import wait_for

if TYPE_CHECKING:
    from langchain_mlflow_tracer import MlflowTracer

__all__ = ["LOG_FORMAT", "POISON", "TOKENS", "WARM"]

POISON = "POISON"
"""The text of the question that a server rejects permanently."""

TOKENS = 10
"""Tokens in the usage of each answer."""

WARM = 200
"""Invokes before memory is measured: by then, everything that is loaded once is loaded."""

WEIGHED_EVERY = 100
"""Invokes between two looks at the process's memory."""

THREADS = 4
"""Threads that still run chains when the interpreter exits."""

LOG_FORMAT = "%(created).3f\t%(process)d\t%(msg)s\t%(message)s"
"""Of each log line: when, which process, its text before anything was filled in, and its text."""


@dataclass
class Job:
    """What the chain is asked, and the result."""

    settings: dict[str, Any]
    count: int
    pace: float = 0.0
    size: int = 0
    poison: int | None = None
    journal: str | None = None
    weigh: bool = False
    clock_back: float = 0.0
    times: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    weight: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes in memory: after the first `WARM` invokes, and the most since then."""
    tracer: MlflowTracer | None = None

    def begin(self) -> MlflowTracer:
        """Make the tracer, and log to standard error."""
        from langchain_mlflow_tracer import MlflowTracer  # noqa: PLC0415 - only after the clock was changed

        logging.basicConfig(format=LOG_FORMAT)
        self.tracer = MlflowTracer(**self.settings)
        return self.tracer

    def ask(self, first: int = 0) -> None:
        """Run the chain `count` times, with questions from the `first` on."""
        prompt = ChatPromptTemplate.from_messages([("system", "Be terse."), ("user", "{question}")])
        usage = {"input_tokens": TOKENS - 1, "output_tokens": 1, "total_tokens": TOKENS}
        answer = AIMessage("answer", usage_metadata=usage)
        chain = prompt | FakeMessagesListChatModel(responses=[answer]) | StrOutputParser()
        tracer = self.tracer or self.begin()
        for number in range(first, first + self.count):
            question = {"question": self.question(number)}
            began = time.perf_counter()
            assert chain.invoke(question, {"callbacks": [tracer]}) == "answer"
            self.note(time.perf_counter() - began, str(tracer.last_trace_id))
            if self.weigh:
                self.measure_memory(tracer)
            if self.clock_back and number == first + self.count // 2:
                clock.behind = self.clock_back
            time.sleep(self.pace)

    def question(self, number: int) -> str:
        """Return a question of at least `size` characters; that of the number `poison` contains `POISON`."""
        text = f"question {number} {POISON}" if number == self.poison else f"question {number}"
        return text.ljust(self.size, "?")

    def note(self, took: float, trace_id: str) -> None:
        """Write down at once that an invoke returned: this process may be killed at any moment."""
        self.times.append(took)
        self.ids.append(trace_id)
        if self.journal is not None:
            entry = {"id": trace_id, "took": took, "ended": clock.real(), "pid": os.getpid()}
            os.write(opened(self.journal), json.dumps(entry).encode() + b"\n")

    def measure_memory(self, tracer: MlflowTracer) -> None:
        """Measure the memory now and then, from the first failed export on."""
        if len(self.ids) == WARM:
            wait_for(lambda: has_failed(tracer.stats()), timeout=60)
            self.weight = [resident()] * 2
        elif len(self.ids) % WEIGHED_EVERY == 0:
            self.weight[1] = max(self.weight[1], resident())

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: another process makes its own tracer."""
        return {**self.__dict__, "tracer": None}


def main(  # noqa: PLR0917 - called with names only
    settings: dict[str, Any],
    count: int,
    end: str = "exit",
    pace: float = 0.0,
    family: str | None = None,
    hosts: str | None = None,
    file_limit: int | None = None,
    last_words: str | None = None,
    **more: Any,
) -> None:
    """Run a chain `count` times, and end the process in the way that `end` names.

    Args:
        settings: the tracer's.
        count: invokes, of each process.
        end: one of `ENDS`, or one of `FAMILIES`, or "threads" (while some still ask), "wait" (for the end
            of standard input), "exit".
        pace: seconds between invokes.
        family: one of `FAMILIES`, whatever the end.
        hosts: a file; while it exists, names under `.invalid` are this machine's.
        file_limit: bytes that a file of this process may have.
        last_words: a file that gets the tracer's counts when the interpreter has exited.
        more: `size` (characters of a question), `poison` (the number of the question that has it), `journal`
            (a file that gets one line of JSON for each invoke that returned), `weigh` (memory), `clock_back`
            (seconds by which the clock jumps back in the middle).
    """
    family = family or (end if end in FAMILIES else None)
    if hosts is not None:
        resolve_names(Path(hosts))
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    job = Job(settings, count, pace, **more)
    if job.clock_back:
        clock.rule()
    if last_words is not None:
        atexit.register(lambda: Path(last_words).write_text(json.dumps(tracer.stats())))
    tracer = job.begin()  # which registers its own end after ours: it comes first
    gone = {}
    if end == "threads":
        ask_in_threads(job)
    elif family is not None:
        gone = FAMILIES[family](job.ask)
    else:
        job.ask()
    if end == "wait":
        sys.stdin.read()
    done = clock.real()
    result = {
        "done": done, "slowest": max(job.times, default=0.0), "ids": job.ids,
        "weight": job.weight, "gone": gone, "stats": tracer.stats(),
    }  # fmt: skip
    print(json.dumps(result), flush=True)
    if end in ENDS:
        ENDS[end]()


def kill() -> None:
    """End at once, without any clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)


def sigterm() -> None:
    """End by SIGTERM, without a handler."""
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    """Raise an exception that nothing handles."""
    raise RuntimeError("the application's own failure")


ENDS: dict[str, Callable[[], object]] = {
    "kill": kill,
    "os_exit": lambda: os._exit(0),
    "sigterm": sigterm,
    "exception": fail,
}


def ask_in_threads(job: Job) -> None:
    """Start threads that run the chain without end; return after `count` invokes in all."""
    endless = Job(job.settings, sys.maxsize, job.pace, journal=job.journal, tracer=job.tracer)
    for _ in range(THREADS):
        threading.Thread(target=endless.ask, daemon=True).start()
    wait_for(lambda: len(endless.ids) >= job.count, timeout=60)


@functools.cache
def opened(file: str) -> int:
    """Return a descriptor that appends to a file; child processes and threads share it."""
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def resident() -> int:
    """Return the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def has_failed(stats: Mapping[str, object]) -> bool:
    """Whether an export has failed."""
    return bool(stats.get("last_error"))


class Clock:
    """The time of day of this process, which `rule` lets differ from the real one."""

    def __init__(self) -> None:
        self.real, self._real_ns = time.time, time.time_ns
        self.behind = 0.0
        """Seconds."""

    def rule(self) -> None:
        """Replace the clock of module `time`."""
        time.time = lambda: self.real() - self.behind
        time.time_ns = lambda: self._real_ns() - int(self.behind * 1e9)


clock = Clock()


def resolve_names(hosts: Path) -> None:
    """Resolve names under `.invalid` to this machine, but only while the file `hosts` exists."""
    look_up = socket.getaddrinfo

    def known(host: Any, *arguments: Any, **named: Any) -> Any:
        address = "127.0.0.1" if str(host).endswith(".invalid") and hosts.exists() else host
        return look_up(address, *arguments, **named)

    socket.getaddrinfo = known


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
