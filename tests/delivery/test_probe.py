"""Probes servers that answer, that do not, and that fail; and checks what a probe costs the application."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.exporter.probe import probe
from langchain_mlflow_tracer.settings.destination import Destination
from tests.conftest import wait_for
from tests.support.faults import answering, hanging, refusing
from tests.support.proxy import FaultProxy

ROOT = Path(__file__).resolve().parents[2]


def ask(address: str, timeout: float = 5) -> None:
    """Probe the server at `address`, and write to the package's log."""
    probe(Destination(address), timeout, Log(logging.getLogger("langchain_mlflow_tracer")))


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404])
def test_any_answer_counts_as_a_server(status: int) -> None:
    with answering(status) as address:
        ask(address)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_the_wait_that_a_failing_server_asks_for_is_in_the_error(status: int) -> None:
    with answering(status, b"busy", {"Retry-After": "7"}) as address:
        with pytest.raises(TransientExportError, match=f"/version answered {status}: busy") as caught:
            ask(address)
    assert (caught.value.status, caught.value.retry_after) == (status, 7.0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(status: int) -> None:
    with FaultProxy() as elsewhere:
        for where in (elsewhere.address, "http://[half", "//", ""):
            with answering(status, headers={"Location": where}) as address:
                ask(address)
        assert elsewhere.seen == []


def test_a_refused_connection_or_an_unknown_name_is_a_transient_error() -> None:
    with refusing() as address:
        with pytest.raises(TransientExportError, match="no answer from http://.*refused"):
            ask(address)
    with pytest.raises(TransientExportError, match=r"no answer from http://mlflow\.invalid"):
        ask("http://mlflow.invalid:5000")


def test_a_server_that_never_answers_is_waited_for_no_longer_than_the_timeout() -> None:
    with hanging() as address:
        began = time.monotonic()
        with pytest.raises(TransientExportError, match="timed out"):
            ask(address, 0.2)
    assert time.monotonic() - began < 5


def test_a_server_that_has_not_answered_yet_is_logged_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("langchain_mlflow_tracer.delivery.exporter.probe.SILENCE", 0.05)
    with hanging() as address, pytest.raises(TransientExportError, match="timed out"):
        ask(address.replace("//", "//ada:hunter2@"), 1.0)
    assert caplog.messages == [f"{address} has not answered yet: traces wait on disk"]


def test_a_server_that_answers_in_time_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with answering(200) as address:
        ask(address)
        wait_for(lambda: not any(isinstance(one, threading.Timer) for one in threading.enumerate()))
    assert caplog.messages == []


def test_a_failure_of_tls_is_left_to_the_client_of_mlflow() -> None:
    with answering(200) as address:
        ask(address.replace("http:", "https:"))


def test_an_error_of_the_probe_contains_no_password() -> None:
    with refusing() as address:
        with pytest.raises(TransientExportError) as caught:
            ask(address.replace("//", "//ada:hunter2@"))
    assert "hunter2" not in str(caught.value)


def test_an_application_does_not_import_mlflow_while_its_server_is_down(tmp_path: Path) -> None:
    code = (
        "import sys, time; from langchain_core.runnables import RunnableLambda\n"
        "from langchain_mlflow_tracer import MlflowTracer\n"
        "tracer = MlflowTracer(sys.argv[1])\n"
        "RunnableLambda(str).invoke(1, {'callbacks': [tracer]})\n"
        "while not tracer.stats()['last_error']: time.sleep(0.01)\n"
        "tracer.close(); print('mlflow' in sys.modules)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with refusing() as address:
        ran = subprocess.run(
            [sys.executable, "-c", code, address], cwd=tmp_path, env=environ, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
    assert ran.stdout == "False\n"
