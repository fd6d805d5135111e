"""Starts a real MLflow server on this machine, for tests and for benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

__all__ = ["DATABASE", "PYTHON", "empty_database", "free_port", "running_server", "wait_for"]

PYTHON = os.environ.get("TESTS_MLFLOW_PYTHON") or sys.executable
"""A Python that has MLflow's server: not the tests' own where they have mlflow-tracing alone."""

DATABASE = "mlflow.db"
"""The server's database, a file in its folder."""

SERVER_START_TIMEOUT = 120.0
"""Seconds: a new store is migrated first, and both cores may be busy."""


def empty_database(folder: Path) -> Path:
    """Make an MLflow database: its migrations take seconds, a copy takes none."""
    uri = f"sqlite:///{folder}/{DATABASE}"
    code = f"from mlflow.tracking import MlflowClient; MlflowClient({uri!r}).search_experiments()"
    subprocess.run([PYTHON, "-c", code], check=True, cwd=folder)
    return folder / DATABASE


@contextlib.contextmanager
def running_server(
    folder: Path, database: Path, *, workers: int = 1, store: str | None = None, python: str = PYTHON
) -> Iterator[str]:
    """Run one `mlflow server` in `folder` on `store`, or on a copy of `database`; yield its address."""
    shutil.copy(database, folder / DATABASE)
    address = f"http://127.0.0.1:{free_port()}"
    command = [
        python, "-m", "mlflow", "server", "--backend-store-uri", store or f"sqlite:///{folder}/{DATABASE}",
        "--default-artifact-root", str(folder / "artifacts"), "--host", "127.0.0.1",
        "--port", address.rpartition(":")[2], "--workers", str(workers),
    ]  # fmt: skip
    environ = {
        **os.environ,
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runners start slowly, and do nothing here
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(lambda: answers(address), SERVER_START_TIMEOUT)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(address: str) -> bool:
    """Whether an MLflow server answers there."""
    try:
        return httpx.get(f"{address}/version", timeout=2).is_success
    except httpx.HTTPError:
        return False


def wait_for(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until `condition` holds, or fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.02)
