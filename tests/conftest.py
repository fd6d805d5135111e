"""Starts what tests share: an Azure OpenAI emulator, MLflow stores, one real MLflow server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from langchain_openai import AzureChatOpenAI

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, uninstall
from tests.server import empty_database, running_server, wait_for

__all__ = ["MakeTracer", "wait_for"]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported; nothing leaves this machine

MakeTracer = Callable[..., MlflowTracer]

# What Hypothesis tries: the same at every run, or with `--hypothesis-profile=long` much more of it.
settings.register_profile(
    "short", derandomize=True, database=None, deadline=None, max_examples=60, stateful_step_count=40
)
settings.register_profile(
    "long",
    database=None,
    deadline=None,
    max_examples=5_000,
    stateful_step_count=60,
    report_multiple_bugs=False,
)
settings.load_profile("short")


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
    return empty_database(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """Return the URI of a real MLflow store with nothing in it."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one real `mlflow server`; yield its address."""
    with running_server(tmp_path_factory.mktemp("server"), empty_store) as address:
        yield address


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
