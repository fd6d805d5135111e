"""Makes an environment that has mlflow-tracing without mlflow, by links to installed packages."""

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
"""The package without its extra `mlflow`, and the other package that the applications import."""


class Alone:
    """Runs Python where mlflow-tracing alone is installed."""

    def __init__(self, python: Path) -> None:
        self._python = python

    def run(self, *arguments: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `python` with arguments, and wait for its end."""
        return subprocess.run(
            [str(self._python), *map(str, arguments)],
            cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    def output(self, code: str, *arguments: object, cwd: Path, **environ: str) -> str:
        """Return what a program prints, which must succeed."""
        done = self.run("-c", code, *arguments, cwd=cwd, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def lay(folder: Path) -> Alone:
    """Return an environment without mlflow: that of the tests if it has none, else a new one of links."""
    if not opens_databases():
        return Alone(Path(sys.executable))
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for package in (needed for name in NEEDED for needed in closure(name, set())):
        for part in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (packages / part).exists():
                (packages / part).symlink_to(Path(str(package.locate_file(part))))
    return Alone(folder / "bin" / "python")


def closure(name: str, seen: set[str], extras: frozenset[str] = frozenset()) -> Iterator[Distribution]:
    """Yield a distribution and all distributions that it requires."""
    key = f"{name} {sorted(extras)}"
    if key in seen:
        return
    seen.add(key)
    package = distribution(name)
    yield package
    for wanted in map(Requirement, package.requires or ()):
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield from closure(wanted.name, seen, frozenset(wanted.extras))
