"""Asks servers that are there, that are not, and that have trouble; and what that costs the asker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.delivery.exporter.probe import probe
from langchain_mlflow_tracer.settings.destination import Destination
from tests.conftest import wait_for
from tests.support.faults import answering, hanging, refusing
from tests.support.proxy import FaultProxy

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404])
def test_whoever_answers_is_there(status: int) -> None:
    with answering(status) as address:
        probe(Destination(address), 5)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_who_has_trouble_is_left_alone_as_long_as_it_asks(status: int) -> None:
    with answering(status, b"busy", {"Retry-After": "7"}) as address:
        with pytest.raises(TransientExportError, match=f"/version answered {status}: busy") as caught:
            probe(Destination(address), 5)
    assert (caught.value.status, caught.value.retry_after) == (status, 7.0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(status: int) -> None:
    with FaultProxy() as elsewhere:
        for where in (elsewhere.address, "http://[half", "//", ""):
            with answering(status, headers={"Location": where}) as address:
                probe(Destination(address), 5)
        assert elsewhere.seen == []


def test_who_refuses_or_is_unknown_is_not_there() -> None:
    with refusing() as address:
        with pytest.raises(TransientExportError, match="no answer from http://.*refused"):
            probe(Destination(address), 5)
    with pytest.raises(TransientExportError, match=r"no answer from http://mlflow\.invalid"):
        probe(Destination("http://mlflow.invalid:5000"), 5)


def test_who_never_says_a_word_is_not_waited_for() -> None:
    with hanging() as address:
        began = time.monotonic()
        with pytest.raises(TransientExportError, match="timed out"):
            probe(Destination(address), 0.2)
    assert time.monotonic() - began < 5


def test_who_takes_long_is_told_of_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langchain_mlflow_tracer.delivery.exporter.probe.SILENCE", 0.05)
    said: list[str] = []
    with hanging() as address, pytest.raises(TransientExportError, match="timed out"):
        probe(Destination(address.replace("//", "//ada:hunter2@")), 1.0, said.append)
    assert said == [f"{address} has not answered yet"]


def test_of_who_answers_nothing_is_told() -> None:
    said: list[str] = []
    with answering(200) as address:
        probe(Destination(address), 5, said.append)
        wait_for(lambda: not any(isinstance(one, threading.Timer) for one in threading.enumerate()))
    assert said == []


def test_who_does_not_speak_tls_as_we_do_is_for_the_real_client_to_judge() -> None:
    with answering(200) as address:
        probe(Destination(address.replace("http:", "https:")), 5)


def test_neither_user_nor_password_is_sent_or_told() -> None:
    with refusing() as address:
        with pytest.raises(TransientExportError) as caught:
            probe(Destination(address.replace("//", "//ada:hunter2@")), 5)
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
