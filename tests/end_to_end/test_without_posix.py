"""Traces in a process without what Windows does not have: `fork`, `flock` and numbers of users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.stored import Client

ROOT = Path(__file__).resolve().parents[2]

APPLICATION = """
import json, os, signal, sys, threading

for module in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[module] = None  # an import of it fails
for name in ("fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getgid", "getegid", "fchmod"):
    delattr(os, name)
del signal.SIGKILL, signal.SIGALRM, signal.SIGHUP

from langchain_core.runnables import RunnableLambda
from langchain_mlflow_tracer import MlflowTracer

tracer = MlflowTracer(sys.argv[1], spool_dir=sys.argv[2])
RunnableLambda(str.upper).invoke("hello", {"callbacks": [tracer]})
flushed = tracer.flush(30)
threads = [thread.name for thread in threading.enumerate()]
print(json.dumps([flushed, tracer.stats()["delivered"], tracer.last_trace_id, threads]))
tracer.close()
"""


def test_a_process_without_fork_and_flock_records_traces_and_sends_them_from_a_thread(
    server: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION, server, str(tmp_path / "spool")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    flushed, delivered, trace_id, threads = json.loads(done.stdout)
    assert (flushed, delivered) == (True, 1)
    assert any("lane" in name for name in threads)
    assert Client(server).get_trace(trace_id).data.spans[0].outputs == "HELLO"
