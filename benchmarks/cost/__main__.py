"""Measures the cost of the tracer, and compares it with an untraced chain, an empty handler and four peers.

    python -m benchmarks.cost [--only ROW …] [--peers none|all|NAME …] [--quick]
                              [--drain TRACES] [--markdown FILE] [--chart FILE.svg] [--json FILE]

Each contestant sends to a sink on this machine that accepts everything at once. The contestants take turns in
short rounds, each in a separate process. The overhead in a round is the difference from the untraced chain of
the same round, because the speed of a shared machine changes. With `--drain` a test with real servers follows
(`benchmarks.cost.drain`). The exit code is 1 if this tracer exceeds a bound.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.cost import drain, environments, report
from benchmarks.cost.contestants import CONTESTANTS, PEERS
from benchmarks.cost.crew import PROJECT
from benchmarks.cost.rows import ROWS
from benchmarks.cost.run import Measured, Stage, measured

PACKAGE = PROJECT / "langchain_mlflow_tracer"


def main() -> int:
    """Measure and print the selected rows; return 1 if a bound is exceeded."""
    asked = options().parse_args()
    chosen = [row for row in ROWS if any(row.name.startswith(name) for name in asked.only)]
    if not chosen:
        print(
            "No row has a name that begins with this. The rows are:",
            *(row.name for row in ROWS),
            sep="\n  ",
            file=sys.stderr,
        )
        return 2
    pythons = found(asked.peers, asked.environments, here=asked.here)
    compileall.compile_dir(PACKAGE, quiet=2)  # as pip does for installed packages, so for the peers, too
    done: list[Measured] = []
    with (
        tempfile.TemporaryDirectory(prefix="cost-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as lives,
    ):
        stage = Stage(pythons, Path(folder), lives)
        for row in chosen:
            done.append(measured(row, stage, quick=asked.quick))
            print("  ".join(report.cells(done[-1])), file=sys.stderr, flush=True)
    print(report.terminal([report.cells(one) for one in done]))
    print(arrivals(done))
    write(asked, done)
    over = [one.row.name for one in done if not one.is_within]
    if asked.drain:
        lines, kept = drain.measured(asked.drain, asked.environments)
        print(*lines, sep="\n")
        over += [] if kept else ["drain"]
        if asked.markdown:
            text = "\n".join([*(f"- {line}" for line in lines), "", about()])
            report.write_into(asked.markdown, text, report.DRAIN)
    print(about(), "over:" if over else "all within their bounds", *over, sep="\n")
    return 1 if over else 0


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--only", nargs="+", metavar="ROW", default=[""], help="names of rows, or their first characters"
    )
    made.add_argument("--peers", nargs="+", default=["all"], choices=["none", "all", *PEERS])
    made.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    made.add_argument(
        "--drain",
        type=int,
        metavar="TRACES",
        help="at the end, measure a burst of so many traces with real servers",
    )
    made.add_argument("--markdown", type=Path, help="a document with the two markers, to be updated")
    made.add_argument("--chart", type=Path, help="write a chart as SVG")
    made.add_argument("--json", type=Path, help="all figures")
    made.add_argument("--environments", type=Path, default=environments.default_folder())
    made.add_argument("--here", action="store_true", help="run this tracer in the current environment")
    return made


def found(peers: list[str], folder: Path, *, here: bool) -> dict[str, str]:
    """Return the interpreter of each selected contestant."""
    wanted = {name for name in CONTESTANTS if name not in PEERS}
    wanted |= set(PEERS) & set(PEERS if "all" in peers else peers)
    pythons = {}
    for name in CONTESTANTS:
        if name in wanted:
            own = here and name not in PEERS
            python = sys.executable if own else environments.interpreter(name, folder)
            if python is not None:
                pythons[name] = python
    return pythons


def arrivals(done: list[Measured]) -> str:
    """Return what arrived from each contestant, for its process that sent the most."""
    most: dict[str, Mapping[str, int]] = {}
    for one in done:
        for name, counted in one.delivered.items():
            most[name] = max(most.get(name, {}), counted, key=lambda each: each.get("bytes", 0))
    parts = (
        f"{name} {one.get('requests', 0)} requests, {one.get('bytes', 0)} bytes" for name, one in most.items()
    )
    return "arrived: " + "; ".join(parts)


def write(asked: argparse.Namespace, done: list[Measured]) -> None:
    """Write the requested files."""
    figures = json.dumps(report.as_json(done), indent=1)
    if asked.json:
        asked.json.write_text(figures, "utf-8")
    if asked.markdown:
        report.write_into(asked.markdown, report.markdown(done, about()))
    if asked.chart and (python := environments.interpreter("chart", asked.environments)):
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as source:
            source.write(figures)
            source.flush()
            command = [python, "-m", "benchmarks.cost.chart", source.name, str(asked.chart)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})


def about() -> str:
    """Return the date, the machine and the Python version."""
    day = dt.datetime.now(tz=dt.UTC).date()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{day}, {machine}, Python {platform.python_version()}"


if __name__ == "__main__":
    raise SystemExit(main())
