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
"""What stands in the one question that a server will never take."""

TOKENS = 10
"""Tokens that each answer says it took."""

WARM = 200
"""Invokes before memory is weighed: what is loaded once is loaded then."""

WEIGHED_EVERY = 100
"""Invokes between two looks at the process's memory."""

THREADS = 4
"""Threads that still ask when the interpreter exits."""

LOG_FORMAT = "%(created).3f\t%(process)d\t%(msg)s\t%(message)s"
"""Of each log line: when, which process, its text before anything was filled in, and its text."""


@dataclass
class Job:
    """What is asked of the chain, and what became of it."""

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
    """Bytes in memory: when it was warm, and the most since."""
    tracer: MlflowTracer | None = None

    def begin(self) -> MlflowTracer:
        """Make the tracer, and log where people look."""
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
                self.put_on_scales(tracer)
            if self.clock_back and number == first + self.count // 2:
                clock.behind = self.clock_back
            time.sleep(self.pace)

    def question(self, number: int) -> str:
        """Return a question of at least `size` characters, with the poison where it is told to be."""
        text = f"question {number} {POISON}" if number == self.poison else f"question {number}"
        return text.ljust(self.size, "?")

    def note(self, took: float, trace_id: str) -> None:
        """Write an invoke down that returned, at once: this process may be killed the next moment."""
        self.times.append(took)
        self.ids.append(trace_id)
        if self.journal is not None:
            said = {"id": trace_id, "took": took, "ended": clock.real(), "pid": os.getpid()}
            os.write(opened(self.journal), json.dumps(said).encode() + b"\n")

    def put_on_scales(self, tracer: MlflowTracer) -> None:
        """Look at the memory now and then; what grows is what comes after a first export has failed."""
        if len(self.ids) == WARM:
            wait_for(lambda: has_failed(tracer.stats()), timeout=60)
            self.weight = [resident()] * 2
        elif len(self.ids) % WEIGHED_EVERY == 0:
            self.weight[1] = max(self.weight[1], resident())

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process without the tracer, which makes one of its own."""
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
    """Run a chain `count` times and end as told.

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
        know_names(Path(hosts))
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
    said = {
        "done": done, "slowest": max(job.times, default=0.0), "ids": job.ids,
        "weight": job.weight, "gone": gone, "stats": tracer.stats(),
    }  # fmt: skip
    print(json.dumps(said), flush=True)
    if end in ENDS:
        ENDS[end]()


def kill() -> None:
    """Be gone this moment."""
    os.kill(os.getpid(), signal.SIGKILL)


def sigterm() -> None:
    """Be asked to end, with no handler for it."""
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    """Raise what nobody handles."""
    raise RuntimeError("the application's own failure")


ENDS: dict[str, Callable[[], object]] = {
    "kill": kill,
    "os_exit": lambda: os._exit(0),
    "sigterm": sigterm,
    "exception": fail,
}


def ask_in_threads(job: Job) -> None:
    """Leave threads that never stop asking; return when they have asked `count` times in all."""
    endless = Job(job.settings, sys.maxsize, job.pace, journal=job.journal, tracer=job.tracer)
    for _ in range(THREADS):
        threading.Thread(target=endless.ask, daemon=True).start()
    wait_for(lambda: len(endless.ids) >= job.count, timeout=60)


@functools.cache
def opened(file: str) -> int:
    """Return a descriptor that adds to a file: children and threads share it."""
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def resident() -> int:
    """Return the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def has_failed(stats: Mapping[str, object]) -> bool:
    """Whether an export has failed."""
    return bool(stats.get("last_error"))


class Clock:
    """The time of day, as this process sees it once it was told to ask here."""

    def __init__(self) -> None:
        self.real, self._real_ns = time.time, time.time_ns
        self.behind = 0.0
        """Seconds."""

    def rule(self) -> None:
        """Be asked instead of the real clock."""
        time.time = lambda: self.real() - self.behind
        time.time_ns = lambda: self._real_ns() - int(self.behind * 1e9)


clock = Clock()


def know_names(hosts: Path) -> None:
    """Find names under `.invalid` while `hosts` exists, and never otherwise."""
    look_up = socket.getaddrinfo

    def known(host: Any, *arguments: Any, **named: Any) -> Any:
        found = "127.0.0.1" if str(host).endswith(".invalid") and hosts.exists() else host
        return look_up(found, *arguments, **named)

    socket.getaddrinfo = known


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
