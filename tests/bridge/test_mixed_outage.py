"""Mixes chains with MLflow's own spans while the server is dead, and reads what another process delivers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Trace
from mlflow.tracking import MlflowClient

from azure_emulator import AzureEmulator
from tests.end_to_end.test_delivery import waiting
from tests.support.mixed_application import HARVESTED, ROOTED
from tests.support.mixing import DOUBLE
from tests.support.operating import call, environment
from tests.support.proxy import HANGING, HEALTHY, REFUSING, Fault, FaultProxy
from tests.support.stored import Shape, root, shape
from tests.support.warm import Warm, warm

EXIT_TIMEOUT = 2.0
"""Seconds that a process waits for a server when it ends: the default of `exit_timeout`."""

SLOWER = 2
"""An exit may take this many times the whole application with a healthy server, beside `EXIT_TIMEOUT`."""

SHARE = 0.25
"""The part of that time which one job may take: far less than any wait for a server."""

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


@pytest.fixture(scope="module")
def warmed() -> Iterator[Warm]:
    with warm() as running:
        yield running


class Mixed:
    """The application, its spool, and the experiment that its traces are for."""

    def __init__(
        self, tmp_path: Path, server: str, address: str, emulator: AzureEmulator, warmed: Warm
    ) -> None:
        self.spool_dir = tmp_path / "spool"
        self._folder = tmp_path
        self._warm = warmed
        self._client = MlflowClient(server)
        self.experiment_name = f"mixed {tmp_path}"
        self._experiment = str(self._client.create_experiment(self.experiment_name))
        self._address = address
        self._model = emulator.chat()

    def run(self, does: list[str], forwarder: str = "thread", **environ: str) -> tuple[float, float]:
        """Run the application to its end; return the seconds of its slowest job, and of its exit."""
        settings = {"spool_dir": str(self.spool_dir), "forwarder": forwarder}
        arguments = {"settings": settings, "uri": self._address, "model": self._model, "does": does}
        script = self._folder / "mixed.py"
        script.write_text(
            f"from tests.support.mixed_application import main\nmain(**{arguments!r})\n", "utf-8"
        )
        more = environ or {"MLFLOW_TRACING_DESTINATION": self._experiment}
        ended = self._warm.run(script, self._folder, environment(**more))
        exited = time.time()
        assert ended.returncode == 0, ended.stderr
        printed: dict[str, Any] = json.loads(ended.stdout)
        return printed["slowest"], exited - printed["done"]

    def deliver(self) -> list[Trace]:
        """Let the command send what the application left, in this process; return what is stored then."""
        forwarded = call("forward", "--spool-dir", self.spool_dir, "--timeout", "60")
        assert forwarded.exit_code == 0, forwarded.output
        return list(self._client.search_traces(locations=[self._experiment]))


@pytest.fixture
def mixed(tmp_path: Path, server: str, proxy: FaultProxy, emulator: AzureEmulator, warmed: Warm) -> Mixed:
    return Mixed(tmp_path, server, proxy.address, emulator, warmed)


@pytest.fixture(scope="module")
def healthy(
    tmp_path_factory: pytest.TempPathFactory, server: str, emulator: AzureEmulator, warmed: Warm
) -> float:
    """Return the seconds that the application takes, to its end, while the server is healthy."""
    began = time.time()
    Mixed(tmp_path_factory.mktemp("healthy"), server, server, emulator, warmed).run(ROOTED)
    return time.time() - began


def check_in_time(took: tuple[float, float], healthy: float) -> None:
    """Compare with what this machine needs now for the same application and a healthy server."""
    slowest, exit_seconds = took
    assert slowest <= SHARE * healthy
    assert exit_seconds <= EXIT_TIMEOUT + SLOWER * healthy


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
def test_mlflow_spans_inside_chains_are_kept_while_the_server_is_unavailable(
    mixed: Mixed, healthy: float, proxy: FaultProxy, fault: Fault, forwarder: str
) -> None:
    proxy.fault = fault
    check_in_time(mixed.run(HARVESTED, forwarder), healthy)
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
def test_traces_that_begin_in_mlflow_are_kept_while_the_server_is_unavailable(
    mixed: Mixed, healthy: float, proxy: FaultProxy, fault: Fault
) -> None:
    proxy.fault = fault
    check_in_time(mixed.run(ROOTED), healthy)
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


def test_a_trace_that_begins_in_mlflow_does_not_wait_for_the_experiment_of_a_hanging_server(
    mixed: Mixed, healthy: float, proxy: FaultProxy
) -> None:
    proxy.fault = HANGING
    took = mixed.run(["function", "coroutine"], MLFLOW_EXPERIMENT_NAME=mixed.experiment_name)
    check_in_time(took, healthy)
    proxy.fault = HEALTHY
    assert set(by_name(mixed.deliver())) == {"function", "wait"}
