"""The process of one contestant: it reads tasks as lines of JSON, and prints the measured times.

    python -m benchmarks.cost.worker NAME ADDRESS

Each line has one of `TASKS` and its arguments; the answer is a line of JSON. Output of
libraries goes to standard error.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

__all__ = ["TASKS"]

MODULES: Final = {
    "tracer": "langchain_mlflow_tracer.tracer.tracer",  # `MlflowTracer`, which the package imports lazily
    "autolog": "mlflow.langchain",
    "langfuse": "langfuse.langchain",
    "langsmith": "langsmith",
    "openinference": "openinference.instrumentation.langchain",
}
"""The module of each contestant that an application imports."""


class Worker:
    """One contestant in one process."""

    def __init__(self, name: str, address: str) -> None:
        began = time.perf_counter_ns()
        self._loads: Any = importlib.import_module("benchmarks.cost.loads")
        langchain = time.perf_counter_ns()
        if name in MODULES:
            importlib.import_module(MODULES[name])
        self._imported = {"langchain_ns": langchain - began, "import_ns": time.perf_counter_ns() - langchain}
        contestants = importlib.import_module("benchmarks.cost.contestants")
        self._one = contestants.begin(name, address)
        self._config = {"callbacks": self._one.callbacks} if self._one.callbacks else {}

    def imported(self) -> dict[str, int]:
        """Return the duration of the imports."""
        return self._imported

    def invoke(self, count: int, size: int = 0) -> list[int]:
        """Return the nanoseconds of each of `count` invokes, one after the other without a pause."""
        ask = functools.partial(self._loads.chain().invoke, config=self._config)
        return [self._timed(ask, self._loads.question(size)) for _ in range(count)]

    def stream(self, count: int, tokens: int = 1000) -> list[int]:
        """Return the nanoseconds of each of `count` streams."""
        chain = self._loads.chain(tokens)

        def consume(asked: object) -> None:
            for _ in chain.stream(asked, self._config):
                pass

        return [self._timed(consume, self._loads.question()) for _ in range(count)]

    def agent(self, count: int, rounds: int) -> list[int]:
        """Return the nanoseconds of each of `count` runs of an agent."""
        ask = functools.partial(self._loads.agent(rounds).invoke, config=self._config)
        return [self._timed(ask, self._loads.task()) for _ in range(count)]

    def concurrent(self, count: int, width: int = 50) -> list[int]:
        """Return the nanoseconds of each of `count` times `width` chains on one event loop."""
        chain = self._loads.chain()

        async def together() -> None:
            asked = (chain.ainvoke(self._loads.question(), self._config) for _ in range(width))
            await asyncio.gather(*asked)

        async def repeated() -> list[int]:
            taken = []
            for _ in range(count):
                began = time.perf_counter_ns()
                await together()
                taken.append(time.perf_counter_ns() - began)
            return taken

        return asyncio.run(repeated())

    def cpu(self, count: int) -> dict[str, float]:
        """Return the CPU nanoseconds for each trace, with sending: of this process, and of its children."""
        self.flush()
        own, children = time.process_time_ns(), _children_ns()
        self.invoke(count)
        self.flush()
        spent = time.process_time_ns() - own
        return {"own": spent / count, "children": (_children_ns() - children) / count}

    def memory(self, count: int) -> int:
        """Return the memory of this process in bytes after `count` traces and a flush."""
        self.invoke(count)
        self.flush()
        gc.collect()
        return _resident()

    def flush(self) -> float:
        """Send all pending traces; return the seconds that it took."""
        began = time.perf_counter()
        self._one.flush()
        return time.perf_counter() - began

    @staticmethod
    def _timed(work: Callable[[Any], object], asked: object) -> int:
        """Return the nanoseconds that `work` takes; its inputs are created before."""
        began = time.perf_counter_ns()
        work(asked)
        return time.perf_counter_ns() - began


TASKS: Final = ("imported", "invoke", "stream", "agent", "concurrent", "cpu", "memory", "flush")


def _children_ns() -> int:
    """CPU of the child processes of this process, ended or running."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = sum(_ticks(one) for one in _descendants(os.getpid()))
    return int((ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")) * 1e9)


def _descendants(parent: int) -> Iterator[int]:
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _descendants(int(child))


def _ticks(process: int) -> int:
    after_the_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(after_the_name[11]) + int(after_the_name[12])


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    """Run the tasks from standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(*sys.argv[1:])
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        request = cast("dict[str, Any]", json.loads(line))
        task = request.pop("task")
        if task not in TASKS:
            raise ValueError(task)
        print(json.dumps(getattr(worker, task)(**request)), file=answers)


if __name__ == "__main__":
    main()
