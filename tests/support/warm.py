"""Runs scripts in processes of their own that have imported the large packages already.

    python -m tests.support.warm

It imports LangChain, MLflow and what else takes seconds, but nothing of the package that is tested. For each
line of JSON on standard input it forks, and the child runs one script as Python would, to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Warm", "warm"]

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass
class Ended:
    """How a script ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Warm:
    """A process that has imported the large packages, and forks for each script."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, script: Path, folder: Path, environ: Mapping[str, str]) -> Ended:
        """Run a script in `folder`, which keeps its output, and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"script": str(script), "folder": str(folder), "environ": {**os.environ, **environ}}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        printed, logged = ((folder / name).read_text("utf-8") for name in ("stdout", "stderr"))
        return Ended(code, printed, logged)


@contextlib.contextmanager
def warm() -> Iterator[Warm]:
    """Start such a process, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        yield Warm(process)
        assert process.stdin is not None
        process.stdin.close()


def _import_large_packages() -> None:
    import langchain_openai  # noqa: F401, PLC0415
    import langgraph.graph  # noqa: F401, PLC0415
    import mlflow.genai  # noqa: PLC0415
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401, PLC0415


def _main() -> None:
    _import_large_packages()
    assert "langchain_mlflow_tracer" not in sys.modules
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request["script"], Path(request["folder"]), request["environ"])
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(script: str, folder: Path, environ: Mapping[str, str]) -> None:
    """Run the script in this child; its standard streams are files in `folder`."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.argv = [script]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _main()
