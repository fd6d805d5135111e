"""Starts the processes of a run: a worker for each contestant, and a sink that counts what it sends."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.cost.sink import COUNTED

__all__ = ["Member", "hired"]

PROJECT: Final = Path(__file__).parent.parent.parent

PATIENCE: Final = 300.0
"""Seconds that an answer may take: some peers send a burst at 40 traces a second."""


@dataclass
class Member:
    """The running process of one contestant."""

    name: str
    address: str
    process: subprocess.Popen[str]

    def told(self, task: str, **arguments: object) -> Any:
        """Run a task in it, and return the answer.

        Raises:
            RuntimeError: it has ended, or does not answer; then it is ended, and does nothing any more.
        """
        to, out = _pipes(self.process)
        to.write(json.dumps({"task": task, **arguments}) + "\n")
        to.flush()
        if not select.select([out], [], [], PATIENCE)[0]:
            self.process.kill()
            raise RuntimeError(f"{self.name} hangs: it has not answered {task!r} for {PATIENCE:.0f} s")
        return _answer(self.name, out)

    def delivered(self) -> dict[str, int]:
        """Return the requests and bytes that its sink received."""
        with urllib.request.urlopen(self.address + COUNTED) as answer:  # noqa: S310 - our own sink
            counted: dict[str, int] = json.load(answer)
        return counted


@contextlib.contextmanager
def hired(name: str, python: str, folder: Path, backend: str | None = None) -> Iterator[Member]:
    """Start a contestant, and a sink if no backend is given; all its files are in `folder`."""
    with contextlib.ExitStack() as stack:
        address = backend or stack.enter_context(_sink(folder))
        command = [python, "-m", "benchmarks.cost.worker", name, address]
        member = Member(name, address, stack.enter_context(_started(command, folder)))
        _answer(name, _pipes(member.process)[1])  # it is ready
        yield member


@contextlib.contextmanager
def _sink(folder: Path) -> Iterator[str]:
    with _started([sys.executable, "-m", "benchmarks.cost.sink"], folder) as sink:
        yield _pipes(sink)[1].readline().strip()


@contextlib.contextmanager
def _started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    foreign = ("MLFLOW_", "LANGCHAIN_", "LANGSMITH_", "LANGFUSE_", "OTEL_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    environ |= {"PYTHONPATH": str(PROJECT), "XDG_STATE_HOME": str(folder)}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environ,
            text=True, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise TypeError(process)
    return process.stdin, process.stdout


def _answer(name: str, out: IO[str]) -> Any:
    line = out.readline()
    if not line:
        raise RuntimeError(f"{name} has ended: its log says why")
    return json.loads(line)
