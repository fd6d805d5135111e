"""Forks inside spans of MLflow's, and reads the one trace that both processes have a part in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.stored import Client, Shape, shape
from tests.support.versions import needs_whole_mlflow
from tests.support.warm import Warm, warm

pytestmark = needs_whole_mlflow  # its application traces into a store of its own

APPLICATION = """
import os, threading, mlflow
from langchain_core.runnables import RunnableLambda
from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing
from langchain_mlflow_tracer.bridge import fork

mlflow.set_tracking_uri(uri)
tracer = MlflowTracer(uri, spool_dir=spool, forwarder="thread")

def inside(number):
    with mlflow.start_span("inside"):
        return number

def run(name, work=inside):
    RunnableLambda(work).with_config(run_name=name).invoke(1, {"callbacks": [tracer]})

def forked(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = int(not tracer.flush(60))
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0

def done():
    mlflow.flush_trace_async_logging()
    assert tracer.flush(60), tracer.stats()
"""

INSIDE: Shape = ("inside", "UNKNOWN", [])


def chain(name: str, *below: Shape) -> Shape:
    return (name, "CHAIN", list(below or [INSIDE]))


@pytest.fixture(scope="module")
def warmed() -> Iterator[Warm]:
    with warm() as running:
        yield running


@pytest.fixture
def stored(warmed: Warm, store_uri: str, tmp_path: Path) -> Callable[[str], list[Shape]]:
    """Run an application, and return the shapes of the traces that it stores."""

    def run(code: str) -> list[Shape]:
        script = tmp_path / "application.py"
        places = f"uri, spool = {store_uri!r}, {str(tmp_path / 'spool')!r}\n"
        script.write_text(f"{places}{APPLICATION}{code}\ndone()\n", "utf-8")
        ended = warmed.run(script, tmp_path, {})
        assert ended.returncode == 0, ended.stderr
        return [shape(trace) for trace in Client(store_uri).search_traces(locations=["0"])]

    return run


@pytest.mark.parametrize("first", ["", "protect_mlflow_tracing(tracer)"], ids=["plain", "protected"])
def test_a_chain_in_a_forked_child_joins_the_mlflow_span_around_the_fork(
    stored: Callable[[str], list[Shape]], first: str
) -> None:
    code = f"""
{first}
with mlflow.start_span("outer"):
    run("before")
    forked(lambda: run("child"))
    run("after")
"""
    (found,) = stored(code)
    assert found == ("outer", "UNKNOWN", [chain("before"), chain("child"), chain("after")])


def test_a_chain_in_a_forked_child_joins_the_mlflow_span_around_the_fork_inside_a_run(
    stored: Callable[[str], list[Shape]],
) -> None:
    code = """
def work(number):
    with mlflow.start_span("mine"):
        forked(lambda: run("child"))
    return number
run("parent", work)
"""
    (found,) = stored(code)
    assert found == chain("parent", ("mine", "UNKNOWN", [chain("child")]))


def test_an_mlflow_span_in_a_forked_child_joins_the_span_around_the_fork_if_mlflow_is_protected(
    stored: Callable[[str], list[Shape]],
) -> None:
    code = """
protect_mlflow_tracing(tracer)
def work(number):
    with mlflow.start_span("mine"):
        forked(lambda: inside(1))
    return number
with mlflow.start_span("outer"):
    forked(lambda: inside(1))
    run("parent", work)
"""
    (found,) = stored(code)
    mine: Shape = ("mine", "UNKNOWN", [INSIDE])
    assert found == ("outer", "UNKNOWN", [INSIDE, chain("parent", mine)])


def test_a_fork_while_another_thread_holds_the_lock_of_the_bridge_does_not_hang_the_child(
    stored: Callable[[str], list[Shape]],
) -> None:
    code = """
import signal
run("first")
held = threading.Event()
def hold():
    with fork.lock:
        held.set()
        threading.Event().wait(0.3)
thread = threading.Thread(target=hold)
thread.start()
held.wait()
forked(lambda: (signal.alarm(30), run("child")))
thread.join()
"""
    assert sorted(found[0] for found in stored(code)) == ["child", "first"]
