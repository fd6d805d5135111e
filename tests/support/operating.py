"""Fills spools and calls the command as an operator does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from click.testing import CliRunner, Result

from langchain_mlflow_tracer.cli import main
from langchain_mlflow_tracer.encoding import otlp
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.delivery.test_exporters import record

__all__ = ["COMMAND", "bury", "call", "environment", "fill", "start"]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "langchain_mlflow_tracer"]


def fill(folder: Path, uri: str, count: int = 3, experiment: str | None = None, first: int = 1) -> None:
    """Put traces for `uri` into the spool, numbered from `first`: a store knows a number once."""
    spool = Spool(folder, max_bytes=2**40)
    where = Destination(uri, experiment).to_text()
    spool.put([Item(f"tr-{n}", where, "p", otlp.encode(record(n))) for n in range(first, first + count)])
    spool.close()


def bury(folder: Path, reason: str, count: int = 1) -> None:
    """Reject the oldest pending trace permanently."""
    spool = Spool(folder, max_bytes=2**40)
    for lease in spool.lease(spool.destinations()[0], count, 2**40):
        spool.dead_letters.add(lease, reason)
    spool.close()


def call(*arguments: object, stdin: str | None = None) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(one) for one in arguments], input=stdin)


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which a process finds the package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def start(*arguments: object, stderr: IO[bytes] | int | None = None, **more: str) -> subprocess.Popen[bytes]:
    """Run the command in its own process."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip
