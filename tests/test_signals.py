"""An application closes its tracer in a handler of SIGTERM, whatever its main thread is at."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from langchain_mlflow_tracer.spool import FILE

TIMES = 4

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


def test_what_was_recorded_before_sigterm_is_in_the_spool(tmp_path: Path) -> None:
    chance = random.Random(TIMES)  # noqa: S311 - moments, not secrets
    folders = [tmp_path / f"{durability}{at}" for durability in ("sync", "background") for at in range(TIMES)]
    for folder in folders:
        durability = folder.name.rstrip("0123456789")
        command = [sys.executable, "-c", APPLICATION, durability, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            signal.sigtimedwait([], chance.uniform(0.05, 0.2))  # anywhere in its loop
            os.kill(process.pid, signal.SIGTERM)
            try:
                said, errors = process.communicate(timeout=30)
            finally:
                process.kill()
        told = json.loads(said)
        assert process.returncode == 0, errors
        assert told["dropped"] == {}
        # One may be on its way between the recorder and the queue, for microseconds.
        assert told["recorded"] - spooled(folder) in {0, 1}
