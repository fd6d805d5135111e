"""Measures how long a finished process needs to exit when its server refuses, hangs, or answers 500.

    python -m benchmarks.exit_time [--invokes 200] [--rounds 3]

Each round is a separate process that runs a chain and ends. The measured time is from the end of `main()`
until the process has ended. The same application without a tracer is measured, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.faults import answering, hanging, refusing

PROMISE = 2.5
"""Seconds: `exit_timeout`, two by default, and half a second."""

FAULTS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "untraced": lambda: contextlib.nullcontext("http://127.0.0.1:9"),
    "refuses": refusing,
    "accepts and hangs": hanging,
    "answers 500": lambda: answering(500),
}


def held(address: str, spool_dir: Path, invokes: int, *, disabled: bool) -> float:
    """Run one application; return the seconds from the end of `main()` to the end of the process."""
    settings = {"tracking_uri": address, "spool_dir": str(spool_dir), "disabled": disabled}
    job = json.dumps({"settings": settings, "count": invokes})
    command = [sys.executable, "-m", "tests.support.application", job]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return time.time() - float(json.loads(ended.stdout)["done"])


def main() -> int:
    """Measure and print; return 1 if a process needed longer than promised."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--invokes", type=int, default=200)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    worst = 0.0
    print("Seconds from the end of main() to the end of the process")
    for name, fault in FAULTS.items():
        with fault() as address, tempfile.TemporaryDirectory() as folder:
            times = [
                held(address, Path(folder) / str(one), chosen.invokes, disabled=name == "untraced")
                for one in range(chosen.rounds)
            ]
        worst = max(worst, *times)
        print(f"{name:<20}" + "".join(f"{one:>8.2f}" for one in times))
    print(f"longest {worst:.2f} s, promised {PROMISE} s: {'ok' if worst <= PROMISE else 'EXCEEDED'}")
    return 0 if worst <= PROMISE else 1


if __name__ == "__main__":
    raise SystemExit(main())
