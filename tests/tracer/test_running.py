"""Looks at traces that still run: in MLflow while they do, and after their process was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from mlflow.entities import Trace
from mlflow.tracking import MlflowClient

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.spool.spool import Spool
from langchain_mlflow_tracer.tracer import pipeline
from tests.conftest import MakeTracer, wait_for
from tests.support.stored import experiment_id, root, stored_trace

ROOT = Path(__file__).resolve().parents[2]

LONG = 30.0
"""Seconds in which a trace that runs for more than three is seen, on a machine that is busy."""


class Slow:
    """A chain whose second step ends when it is let go."""

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.chain: Runnable[int, int] = RunnableLambda(self.first) | RunnableLambda(self.second)

    def first(self, value: int) -> int:
        return value + 1

    def second(self, value: int) -> int:
        self.leave.wait(120)
        return value * 2

    def run(self, tracer: MlflowTracer) -> threading.Thread:
        config: Any = {"callbacks": [tracer], "run_name": "slow", "metadata": {"session_id": "s-1"}}
        thread = threading.Thread(target=self.chain.invoke, args=(1, config))
        thread.start()
        return thread


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.leave.set()


@pytest.fixture(params=["server", "embedded"])
def uri(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("server" if request.param == "server" else "store_uri"))


def stored(uri: str, experiment: str) -> list[Trace]:
    """Return the traces of an experiment, none while it is not there."""
    client = MlflowClient(uri)
    if client.get_experiment_by_name(experiment) is None:
        return []
    return list(client.search_traces(locations=[experiment_id(uri, experiment)]))


def test_mlflow_shows_a_running_trace_as_in_progress_and_updates_the_trace_when_the_run_ends(
    uri: str, slow: Slow, make_tracer: MakeTracer
) -> None:
    tracer = make_tracer(uri, "running")
    thread = slow.run(tracer)
    wait_for(lambda: stored(uri, "running"), LONG)
    (seen,) = stored(uri, "running")
    assert seen.info.state == "IN_PROGRESS"
    assert seen.info.trace_metadata["mlflow.trace.session"] == "s-1"
    first, second = sorted(seen.data.spans, key=lambda span: span.start_time_ns)[1:]
    assert (first.inputs, first.outputs, first.status.status_code) == (1, 2, "OK")
    assert (second.inputs, second.outputs, second.get_attribute("lc.outcome")) == (2, None, "running")
    slow.leave.set()
    thread.join()
    trace = stored_trace(uri, tracer)
    assert (trace.info.trace_id, trace.info.state) == (seen.info.trace_id, "OK")
    assert trace.info.tags["mlflow.traceName"] == "slow"
    assert (root(trace).inputs, root(trace).outputs) == (1, 4)
    assert len(trace.data.spans) == 3
    assert all(span.get_attribute("lc.outcome") is None for span in trace.data.spans)


def test_a_running_trace_of_a_killed_process_is_sent_as_cut_off(
    uri: str, make_tracer: MakeTracer, tmp_path: Path
) -> None:
    code = (
        "import json, sys; from langchain_core.runnables import RunnableLambda\n"
        "from langchain_mlflow_tracer import MlflowTracer; import time\n"
        "tracer = MlflowTracer(**json.loads(sys.argv[1]))\n"
        "(RunnableLambda(len) | RunnableLambda(lambda x: time.sleep(120))).invoke('four',"
        " {'callbacks': [tracer], 'run_name': 'killed'})"
    )
    settings = {"tracking_uri": uri, "experiment": "cut", "spool_dir": str(tmp_path / "spool")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps({**settings, "forwarder": "none"})],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for(lambda: Spool.exists(tmp_path / "spool"), LONG)
    spool = Spool(tmp_path / "spool", max_bytes=2**30)
    wait_for(lambda: spool.figures.totals().running, LONG)
    assert spool.running.of_dead_processes() == []  # it lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    make_tracer(uri, "cut")
    wait_for(lambda: stored(uri, "cut"), LONG)
    wait_for(lambda: spool.figures.totals().running + spool.figures.totals().waiting == 0, LONG)
    spool.close()
    (trace,) = stored(uri, "cut")
    assert (trace.info.state, trace.info.tags["lc.outcome"]) == ("ERROR", "cut_off")
    assert root(trace).inputs == "four"
    assert "cut off" in str(root(trace).status.description)
    known, unknown = sorted(trace.data.spans, key=lambda span: span.start_time_ns)[1:]
    assert (known.outputs, known.status.status_code) == (4, "OK")
    assert (unknown.outputs, unknown.get_attribute("lc.outcome")) == (None, "cut_off")
    assert not list((tmp_path / "spool").glob("alive-*"))


def test_a_running_trace_that_does_not_change_is_written_once(
    slow: Slow, make_tracer: MakeTracer, tmp_path: Path
) -> None:
    thread = slow.run(make_tracer("http://127.0.0.1:9", forwarder="none"))
    wait_for(lambda: Spool.exists(tmp_path / "spool"))
    spool = Spool(tmp_path / "spool", max_bytes=2**30)
    wait_for(lambda: spool.figures.totals().running, LONG)
    (version,) = {lease.id for lease in spool.running.not_shown(spool.destinations()[0], 2**30)}
    assert version == 1
    slow.leave.set()
    thread.join()
    wait_for(lambda: spool.figures.totals().waiting == 1)
    assert spool.figures.totals().running == 0
    spool.close()


def test_a_running_trace_without_a_destination_is_not_written(
    make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "RUNS_LONG", 0)
    tracer = make_tracer("http://127.0.0.1:9", forwarder="none")
    assert isinstance(tracer._pipeline, pipeline.Pipeline)
    tracer._recorder.start("run", None, "begun", "CHAIN")

    tracer._pipeline._look()

    assert tracer._pipeline._open_spool().figures.totals().running == 0
