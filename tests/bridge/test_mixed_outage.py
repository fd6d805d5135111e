"""Mixes chains with MLflow's own spans while the server is dead, and reads what another process delivers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Trace
from mlflow.tracking import MlflowClient

from azure_emulator import AzureEmulator
from tests.end_to_end.test_delivery import GUARD, waiting
from tests.support.mixed_application import HARVESTED, ROOTED
from tests.support.mixing import DOUBLE
from tests.support.operating import COMMAND, ROOT, environment
from tests.support.proxy import HANGING, HEALTHY, REFUSING, Fault, FaultProxy
from tests.support.stored import Shape, root, shape

SLOWEST = 2.0
"""Seconds that a job may take with both cores busy: far less than any wait for a server."""

ADD: Shape = ("add", "TOOL", [])
WAIT: Shape = ("wait", "UNKNOWN", [ADD])
INSIDE: Shape = ("inside", "UNKNOWN", [ADD])
ADDING: Shape = ("adding", "TOOL", [INSIDE])
UP: Shape = ("count_up", "UNKNOWN", [ADD])
UP_LATER: Shape = ("count_up_later", "UNKNOWN", [WAIT])


@pytest.fixture
def proxy(server: str) -> Iterator[FaultProxy]:
    with FaultProxy(server) as running:
        yield running


class Mixed:
    """The application, its spool, and the experiment that its traces are for."""

    def __init__(self, tmp_path: Path, server: str, address: str, emulator: AzureEmulator) -> None:
        self.spool_dir = tmp_path / "spool"
        self._client = MlflowClient(server)
        self.experiment_name = f"mixed {tmp_path}"
        self._experiment = str(self._client.create_experiment(self.experiment_name))
        self._address = address
        self._model = emulator.chat()

    def run(self, does: list[str], forwarder: str = "thread", **environ: str) -> None:
        """Run the application to its end, which must come in time."""
        settings = {"spool_dir": str(self.spool_dir), "forwarder": forwarder}
        told = {"settings": settings, "uri": self._address, "model": self._model, "does": does}
        ended = subprocess.run(
            [sys.executable, "-m", "tests.support.mixed_application", json.dumps(told)],
            env=environment(**(environ or {"MLFLOW_TRACING_DESTINATION": self._experiment})),
            cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        exited = time.time()
        assert ended.returncode == 0, ended.stderr
        said: dict[str, Any] = json.loads(ended.stdout)
        assert exited - said["done"] <= GUARD
        assert said["slowest"] <= SLOWEST

    def deliver(self) -> list[Trace]:
        """Let another process deliver what is left, and return what is stored then."""
        subprocess.run(
            [*COMMAND, "forward", "--spool-dir", str(self.spool_dir), "--timeout", "60"],
            env=environment(), cwd=ROOT, timeout=100, check=True,
        )  # fmt: skip
        return list(self._client.search_traces(locations=[self._experiment]))


@pytest.fixture
def mixed(tmp_path: Path, server: str, proxy: FaultProxy, emulator: AzureEmulator) -> Mixed:
    return Mixed(tmp_path, server, proxy.address, emulator)


def by_name(traces: list[Trace]) -> dict[str, list[Shape]]:
    """Return the shapes of traces by the names of their roots."""
    found: dict[str, list[Shape]] = {}
    for trace in traces:
        found.setdefault(str(trace.info.tags["mlflow.traceName"]), []).append(shape(trace))
    return found


@pytest.mark.parametrize(
    ("fault", "forwarder"),
    [(REFUSING, "thread"), (HANGING, "thread"), (HANGING, "process")],
    ids=["refused", "hanging", "hanging, process"],
)
def test_what_mlflow_makes_in_chains_survives_a_dead_server(
    mixed: Mixed, proxy: FaultProxy, fault: Fault, forwarder: str
) -> None:
    proxy.fault = fault
    mixed.run(HARVESTED, forwarder)
    assert waiting(mixed.spool_dir) == 2 * len(HARVESTED)
    proxy.fault = HEALTHY
    stored = mixed.deliver()
    found = by_name(stored)
    assert {name: len(shapes) for name, shapes in found.items()} == dict.fromkeys(HARVESTED, 2)
    work: Shape = ("RunnableLambda", "CHAIN", [UP])
    assert found["chain"] == [("chain", "CHAIN", [work, ADDING])] * 2
    assert found["chain_later"] == [("chain_later", "CHAIN", [UP_LATER])] * 2
    for name, below in (("graph", ADDING), ("graph_later", WAIT)):
        for _, _, (node,) in found[name]:
            asked, last = node[2]
            assert (asked[:2], last) == (("AzureChatOpenAI", "CHAT_MODEL"), below)
            assert len(asked[2]) == 1  # what the openai client records
    assert {trace.info.tags.get("color") for trace in stored if root(trace).name == "graph"} == {"red"}


@pytest.mark.parametrize("fault", [REFUSING, HANGING], ids=["refused", "hanging"])
def test_what_begins_in_mlflow_survives_a_dead_server(mixed: Mixed, proxy: FaultProxy, fault: Fault) -> None:
    proxy.fault = fault
    mixed.run(ROOTED)
    proxy.fault = HEALTHY
    found = by_name(mixed.deliver())
    assert found == {
        "function": [("function", "UNKNOWN", [ADD, DOUBLE])] * 2,
        "count_up": [UP] * 2,
        "wait": [WAIT] * 2,
        "count_up_later": [UP_LATER] * 2,
        "double": [DOUBLE] * 4,
        "span": [("span", "UNKNOWN", [DOUBLE, DOUBLE])] * 2,
    }


def test_what_begins_in_mlflow_asks_a_dead_server_for_no_experiment(mixed: Mixed, proxy: FaultProxy) -> None:
    proxy.fault = HANGING
    mixed.run(["function", "coroutine"], MLFLOW_EXPERIMENT_NAME=mixed.experiment_name)
    proxy.fault = HEALTHY
    assert set(by_name(mixed.deliver())) == {"function", "wait"}
