"""Lets the forwarder run as a process of its own, for an embedded store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda
from mlflow.tracking import MlflowClient

from langchain_mlflow_tracer.spool import Spool
from tests.conftest import MakeTracer, wait_for
from tests.test_delivery import ROOT, run, waiting

STARTED = 30.0
"""Seconds that a forwarder process may take to deliver: it imports mlflow first."""


def children_of(folder: Path) -> list[int]:
    """The ids of the forwarder processes of a spool."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"langchain_mlflow_tracer.process" in command and str(folder).encode() in command:
            found.append(int(process.name))
    return found


on_linux = pytest.mark.skipif(not Path("/proc").exists(), reason="reads Linux's /proc to count processes")


@on_linux
def test_traces_arrive_after_an_application_that_neither_flushed_nor_waited(
    store_uri: str, tmp_path: Path
) -> None:
    settings = {"tracking_uri": store_uri, "spool_dir": tmp_path / "spool", "exit_timeout": 0}
    ended = run(settings, count=5)
    assert ended.errors == ""
    wait_for(lambda: waiting(tmp_path / "spool") == 0, STARTED)
    found = MlflowClient(store_uri).search_traces(locations=["0"])
    assert sorted(trace.info.trace_id for trace in found) == sorted(ended.ids)
    wait_for(lambda: not children_of(tmp_path / "spool"), STARTED)


@on_linux
def test_a_killed_application_leaves_a_forwarder_that_finishes_and_ends(
    store_uri: str, tmp_path: Path
) -> None:
    settings = {"tracking_uri": store_uri, "spool_dir": tmp_path / "spool", "durability": "sync"}
    ended = run(settings, count=150, end="kill", pace=0.01)
    wait_for(lambda: waiting(tmp_path / "spool") == 0, STARTED)
    assert len(MlflowClient(store_uri).search_traces(locations=["0"], max_results=500)) == len(ended.ids)
    wait_for(lambda: not children_of(tmp_path / "spool"), STARTED)


@on_linux
def test_several_tracers_have_one_forwarder_and_a_killed_one_is_replaced(
    make_tracer: MakeTracer, store_uri: str, tmp_path: Path
) -> None:
    one = make_tracer(store_uri, forwarder="auto")
    two = make_tracer(store_uri, forwarder="auto", exit_timeout=3)
    for tracer in (one, two):
        RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
        assert tracer.flush(timeout=STARTED)
    wait_for(lambda: len(children_of(tmp_path / "spool")) == 1, STARTED)
    (child,) = children_of(tmp_path / "spool")
    os.kill(child, signal.SIGKILL)
    RunnableLambda(str).invoke(2, {"callbacks": [one]})
    assert one.flush(timeout=STARTED)
    assert children_of(tmp_path / "spool") != [child]
    assert len(MlflowClient(store_uri).search_traces(locations=["0"])) == 3


def test_a_thread_delivers_where_there_is_no_python_to_start(
    make_tracer: MakeTracer, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    tracer = make_tracer(store_uri, forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
    assert tracer.flush(timeout=STARTED)


def test_the_child_gives_up_where_its_destination_does_not_take_traces(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    run({"tracking_uri": "http://127.0.0.1:9", "spool_dir": folder, "forwarder": "none"}, count=2)
    child = subprocess.run(
        [sys.executable, "-m", "langchain_mlflow_tracer.process", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, timeout=STARTED, check=False,
    )  # fmt: skip
    assert child.returncode == 1
    spool = Spool(folder, max_bytes=2**40)
    (failed,) = spool.failures()
    assert json.loads(failed.destination)[0] == "http://127.0.0.1:9"
    spool.close()


def test_a_failing_store_is_told_of_in_the_application(
    make_tracer: MakeTracer, store_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "12345")
    tracer = make_tracer(store_uri, forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
    wait_for(lambda: "No Experiment with id=12345" in caplog.text, STARTED)
