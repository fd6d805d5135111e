"""Installs tracers for the whole process, also where that goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_mlflow_tracer import MlflowTracer, install, uninstall
from langchain_mlflow_tracer.tracer import install as everywhere
from langchain_mlflow_tracer.tracer.install import install_lazily
from tests.conftest import MakeTracer

ROOT = Path(__file__).resolve().parents[2]

CHAIN: Runnable[int, int] = RunnableLambda(lambda value: value)


@pytest.fixture
def tracer(make_tracer: MakeTracer) -> MlflowTracer:
    return make_tracer("http://127.0.0.1:9", forwarder="none")


def finished(tracer: MlflowTracer) -> int:
    return tracer.stats()["recorded"]


def test_an_installed_tracer_that_is_also_passed_as_a_callback_records_each_run_once(
    tracer: MlflowTracer,
) -> None:
    install(tracer)
    CHAIN.invoke(1, {"callbacks": [tracer]})
    assert finished(tracer) == 1


def test_installing_a_tracer_twice_records_each_run_once_and_installing_another_replaces_the_first(
    tracer: MlflowTracer, make_tracer: MakeTracer, tmp_path: Path
) -> None:
    install(tracer)
    install(tracer)
    CHAIN.invoke(1)
    other = make_tracer("http://127.0.0.1:9", forwarder="none", spool_dir=tmp_path / "other")
    install(other)
    CHAIN.invoke(2)
    assert (finished(tracer), finished(other)) == (1, 1)


def test_an_installed_tracer_records_children_within_their_root(tracer: MlflowTracer) -> None:
    install(tracer)
    (CHAIN | CHAIN).batch([1, 2, 3])
    assert finished(tracer) == 3


async def test_an_installed_tracer_records_chains_in_asyncio_tasks(tracer: MlflowTracer) -> None:
    install(tracer)
    await (CHAIN | CHAIN).ainvoke(1)
    assert finished(tracer) == 1


def test_an_uninstalled_tracer_is_not_closed(tracer: MlflowTracer) -> None:
    install(tracer)
    assert uninstall() is tracer
    CHAIN.invoke(1, {"callbacks": [tracer]})
    assert finished(tracer) == 1


def test_a_disabled_tracer_that_is_installed_records_no_chain(make_tracer: MakeTracer) -> None:
    install(make_tracer(disabled=True))
    assert CHAIN.invoke(1) == 1


def test_an_invalid_tracking_uri_in_the_environment_fails_no_chain_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada:s3cret@host/db")
    install_lazily()
    assert [CHAIN.invoke(1), CHAIN.invoke(2)] == [1, 2]
    assert [record.message.partition(": ")[0] for record in caplog.records] == ["chains are not traced"]
    assert "s3cret" not in caplog.text


def test_a_tracer_that_is_installed_while_another_is_being_made_is_not_replaced(
    tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, go_on = threading.Event(), threading.Event()

    def slow() -> MlflowTracer:
        making.set()
        assert go_on.wait(10)
        return MlflowTracer(disabled=True)

    monkeypatch.setattr(everywhere, "_make_tracer", slow)
    install_lazily()
    thread = threading.Thread(target=CHAIN.invoke, args=(1,))
    thread.start()
    assert making.wait(10)
    install(tracer)
    go_on.set()
    thread.join()
    assert uninstall() is tracer


def test_chains_that_start_at_the_same_time_are_all_traced_when_the_environment_enables_tracing(
    tmp_path: Path,
) -> None:
    code = """
import threading
from langchain_core.runnables import RunnableLambda
import langchain_mlflow_tracer as package
chain, barrier = RunnableLambda(lambda value: value), threading.Barrier(4)
def invoke():
    barrier.wait()
    chain.invoke(1)
threads = [threading.Thread(target=invoke) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(package.uninstall().stats()["recorded"])
"""
    environ = {
        **os.environ, "LANGCHAIN_MLFLOW_TRACER": "true", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR": str(tmp_path / "spool"),
        "LANGCHAIN_MLFLOW_TRACER_FORWARDER": "none", "LANGCHAIN_MLFLOW_TRACER_EXIT_TIMEOUT": "0",
    }  # fmt: skip
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environ, text=True)
    assert output.strip() == "4"
