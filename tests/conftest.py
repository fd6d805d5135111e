"""Starts what tests share: an Azure OpenAI emulator, MLflow stores, one real MLflow server."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from langchain_openai import AzureChatOpenAI

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, uninstall, unprotect_mlflow_tracing
from langchain_mlflow_tracer.mlflow_private import configured
from langchain_mlflow_tracer.settings.installed_mlflow import opens_databases
from tests.support.server import DATABASE, empty_database, running_server, wait_for

__all__ = ["MakeTracer", "wait_for"]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported; nothing leaves this machine

MakeTracer = Callable[..., MlflowTracer]

_COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""Has coverage measure a process that is started, too (coverage 7.17)."""

_measures = os.environ.pop(_COVERAGE, None) if "PYTEST_XDIST_WORKER" in os.environ else None
"""Kept from what tests start, servers too, which would take half as long again; see `covers_processes`."""

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


_MLFLOW_STATE = {
    "mlflow.tracking._tracking_service.utils": "_tracking_uri",
    "mlflow.tracking.fluent": "_active_experiment_id",
}
"""Variables of MLflow that hold what a test before this one may have set, for the whole process."""


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test its own folder and environment."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "LANGCHAIN_MLFLOW_TRACER", "AZURE_OPENAI_", "LANGSMITH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")  # MLflow's bundled price list, no download
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    for module, name in _MLFLOW_STATE.items():
        if (imported := sys.modules.get(module)) is not None:
            setattr(imported, name, None)
    yield
    uninstall()


@pytest.fixture
def covers_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure what the processes cover that a test starts: some of the package runs nowhere else."""
    if _measures is not None:
        monkeypatch.setenv(_COVERAGE, _measures)


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
    """Make an MLflow database once, for all workers: its migrations take seconds, a copy takes none."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with (folder / "empty.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / "empty" / DATABASE
        if not made.exists():
            made.parent.mkdir()
            empty_database(made.parent)
        return made


@pytest.fixture
def store_uri(
    empty_store: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Return the URI of a real MLflow store with nothing in it.

    Where mlflow-tracing alone is installed, which opens no store, it is that of a server, with an experiment
    of the test's own.
    """
    if not opens_databases():
        from tests.support.stored import Client  # noqa: PLC0415 - it imports mlflow, which reads the environment

        uri: str = request.getfixturevalue("server")
        experiment = Client(uri).create_experiment(str(tmp_path))
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        # As mlflow.set_experiment does: mlflow-tracing itself fails over the variable (3.17).
        monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", experiment)
        return uri
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def own_mlflow(store_uri: str) -> Iterator[None]:
    """Send MLflow's own spans to the store of the test, and reset MLflow afterwards."""
    import mlflow  # noqa: PLC0415 - it takes seconds, and many tests need none
    from mlflow.tracing.trace_manager import InMemoryTraceManager  # noqa: PLC0415

    before = configured.tracking_uri()
    mlflow.set_tracking_uri(store_uri)
    yield
    unprotect_mlflow_tracing()
    autologging = sys.modules.get("mlflow.utils.autologging_utils")
    integrations = getattr(autologging, "AUTOLOGGING_INTEGRATIONS", {})
    for name, config in list(integrations.items()):
        if config and not config.get("disable"):
            getattr(mlflow, name).autolog(disable=True)
        if config:
            # Else it stays switched off by the user, which an evaluation respects.
            del integrations[name]
    mlflow.flush_trace_async_logging(terminate=True)  # else each flush later waits for it too
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    InMemoryTraceManager.reset()  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Switch threads as often as Python can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


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
