"""Starts what tests share: an Azure OpenAI emulator, MLflow stores, one real MLflow server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_openai import AzureChatOpenAI

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, uninstall

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported; nothing leaves this machine

SERVER_START_TIMEOUT = 120.0
"""Seconds: a new store is migrated first, and both cores may be busy."""

MakeTracer = Callable[..., MlflowTracer]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test a folder and an environment of its own."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "LANGCHAIN_MLFLOW_TRACER", "AZURE_OPENAI_", "LANGSMITH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")  # MLflow's bundled price list, no download
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    uninstall()


@pytest.fixture(scope="session")
def emulator() -> Iterator[AzureEmulator]:
    """Serve Azure OpenAI's API on this machine, for all tests."""
    with AzureEmulator() as running:
        yield running


@pytest.fixture
def model(emulator: AzureEmulator) -> AzureChatOpenAI:
    """Return the real client, connected to the emulator."""
    return AzureChatOpenAI(**emulator.chat())


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MLflow database once: its migrations take seconds, a copy takes none."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    code = f"from mlflow.tracking import MlflowClient; MlflowClient({uri!r}).search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    return folder / "mlflow.db"


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """Return the URI of a real MLflow store with nothing in it."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one real `mlflow server`; yield its address."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    address = f"http://127.0.0.1:{free_port()}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--default-artifact-root", str(folder / "artifacts"), "--host", "127.0.0.1",
        "--port", address.rpartition(":")[2], "--workers", "1",
    ]  # fmt: skip
    environ = {**os.environ, "MLFLOW_MODEL_CATALOG_URI": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
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


@pytest.fixture
def make_tracer(tmp_path: Path) -> Iterator[MakeTracer]:
    """Make tracers whose spool is the test's own, and close them when it ends.

    They forward in a thread: this process has mlflow imported already, a new one would need seconds.
    """
    made: list[MlflowTracer] = []

    def make(tracking_uri: str | None = None, experiment: str | None = None, **settings: Any) -> MlflowTracer:
        defaults: dict[str, Any] = {"spool_dir": tmp_path / "spool", "forwarder": "thread"}
        made.append(MlflowTracer(tracking_uri, experiment, **{**defaults, **settings}))
        return made[-1]

    yield make
    for tracer in made:
        tracer.close(timeout=0.1)


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
