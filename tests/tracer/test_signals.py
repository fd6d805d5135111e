"""An application closes its tracer in a handler of a signal, whatever its main thread is at."""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import pytest

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.settings.options import Durability
from langchain_mlflow_tracer.spool.spool import FILE
from langchain_mlflow_tracer.tracer.pipeline import SYNC_PATIENCE, Pipeline

if TYPE_CHECKING:
    from _typeshed import TraceFunction

PACKAGE = str(Path(__file__).resolve().parents[2] / "langchain_mlflow_tracer")

TIMES = 2

APPLICATION = """
import json, signal, sys
from langchain_core.runnables import RunnableLambda
from langchain_mlflow_tracer import MlflowTracer

durability, folder = sys.argv[1:]
tracer = MlflowTracer("http://127.0.0.1:9", spool_dir=folder, forwarder="none", durability=durability)
chain = RunnableLambda(lambda number: number)
ended = False


def end(*_):
    global ended
    ended = True  # Python ignores what is raised where the garbage collector is at work
    tracer.close()
    print(json.dumps(tracer.stats()), flush=True)
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
chain.invoke(0, {"callbacks": [tracer]})
print("begun", flush=True)
while not ended:
    chain.invoke(1, {"callbacks": [tracer]})
"""


def spooled(folder: Path) -> int:
    """Return how many traces are in a spool."""
    with sqlite3.connect(folder / FILE) as database:
        (count,) = database.execute("SELECT count(*) FROM items").fetchone()
    return int(count)


def end_by_sigterm(folder: Path, durability: str, seconds: float) -> None:
    """Run the application for some seconds, end it by SIGTERM, and compare its counts with its spool."""
    command = [sys.executable, "-c", APPLICATION, durability, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(seconds)  # the signal comes anywhere in its loop
        os.kill(process.pid, signal.SIGTERM)
        try:
            printed, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    stats = json.loads(printed)
    assert process.returncode == 0, errors
    assert stats["dropped"] == {}
    # One may be on its way between the recorder and the queue, for microseconds.
    assert stats["recorded"] - spooled(folder) in {0, 1}


def test_traces_recorded_before_sigterm_are_in_the_spool(tmp_path: Path) -> None:
    chance = random.Random(TIMES)  # noqa: S311 - moments, not secrets
    with ThreadPoolExecutor() as pool:  # the processes mostly wait, each for its exit timeout
        ended = [
            pool.submit(end_by_sigterm, tmp_path / f"{durability}{at}", durability, chance.uniform(0.05, 0.2))
            for durability in ("sync", "background")
            for at in range(TIMES)
        ]
    for process in ended:
        process.result()


class Interrupted(BaseException):
    """What a handler of a signal leaves with."""


class Closing:
    """Closes a tracer at one of the steps of ours that are run on this thread, as a handler there would.

    Steps are lines; for a handler that leaves, by an exception, they are calls: Python looks for signals only
    where something is called (3.11), so that `with` gives back what it has taken.
    """

    def __init__(self, tracer: MlflowTracer, step: int, *, leaves: bool) -> None:
        self._tracer = tracer
        self._left = step
        self._leaves = leaves
        self.where = ""

    def __enter__(self) -> Self:
        sys.settrace(self._trace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> bool:
        sys.settrace(None)
        return kind is Interrupted

    def _trace(self, frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == ("call" if self._leaves else "line"):
            self._left -= 1
            if self._left == 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self._tracer.close(timeout=0)
                if self._leaves:
                    raise Interrupted
        return self._trace


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Return what the writer would have the interpreter call at its end."""
    left: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", left.append)
    return left


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize(("durability", "every"), [("background", 1), ("sync", 11)])
def test_a_trace_is_in_the_spool_when_a_signal_handler_closes_the_tracer_while_the_trace_ends(
    durability: Durability, every: int, tmp_path: Path, at_exit: list[Callable[[], None]], *, leaves: bool
) -> None:
    for step in range(1, 1000, every):
        folder = tmp_path / str(step)
        tracer = MlflowTracer("http://127.0.0.1:9", spool_dir=folder, forwarder="none", durability=durability)
        tracer._recorder.start("root", None, "root", "CHAIN")
        began = time.monotonic()
        with Closing(tracer, step, leaves=leaves) as closing:
            tracer._recorder.end("root", lambda _: None)
        assert time.monotonic() - began < SYNC_PATIENCE, f"waits for a writer that has ended: {closing.where}"
        tracer.close(timeout=0)
        while at_exit:
            at_exit.pop()()
        assert isinstance(tracer._pipeline, Pipeline)
        writer = tracer._pipeline._writer._thread
        assert writer is not None
        writer.join(20)
        assert not writer.is_alive()
        assert spooled(folder) == 1, closing.where
        if not closing.where:
            return
    pytest.fail("it never ended")
