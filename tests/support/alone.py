"""Lays an environment in which mlflow-tracing alone is installed, of what the tests' own has."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from langchain_mlflow_tracer.settings.installed_mlflow import opens_databases

__all__ = ["Alone", "lay"]

ROOT = Path(__file__).resolve().parents[2]

NEEDED = ("langchain-mlflow-tracer", "langchain-openai")
"""The package without its extra `mlflow`, and what an application has beside it."""


class Alone:
    """Runs Python where mlflow-tracing alone is installed."""

    def __init__(self, python: Path) -> None:
        self._python = python

    def run(self, *arguments: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `python` with arguments to its end, whatever that is."""
        return subprocess.run(
            [str(self._python), *map(str, arguments)],
            cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    def output(self, code: str, *arguments: object, cwd: Path, **environ: str) -> str:
        """Return what a program prints that is to succeed."""
        done = self.run("-c", code, *arguments, cwd=cwd, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def lay(folder: Path) -> Alone:
    """Return the tests' own environment if it is such a one, else one of links to its packages."""
    if not opens_databases():
        return Alone(Path(sys.executable))
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for found in (one for name in NEEDED for one in closure(name, set())):
        for part in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (packages / part).exists():
                (packages / part).symlink_to(Path(str(found.locate_file(part))))
    return Alone(folder / "bin" / "python")


def closure(name: str, seen: set[str], extras: frozenset[str] = frozenset()) -> Iterator[Distribution]:
    """Yield a distribution and all that it needs."""
    key = f"{name} {sorted(extras)}"
    if key in seen:
        return
    seen.add(key)
    found = distribution(name)
    yield found
    for wanted in map(Requirement, found.requires or ()):
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield from closure(wanted.name, seen, frozenset(wanted.extras))
