"""Lets the forwarder run as a process of its own, shared by all who use a spool."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from langchain_core.runnables import RunnableLambda
from mlflow.entities import Trace

from langchain_mlflow_tracer.delivery import child, supervisor
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import MakeTracer, wait_for
from tests.end_to_end.test_delivery import ROOT, run, waiting
from tests.support.faults import STOP_POLL, hanging
from tests.support.operating import fill
from tests.support.pictures import as_data_uri, picture
from tests.support.proxy import FaultProxy, answers_to
from tests.support.stored import Client, own_experiment

pytestmark = pytest.mark.usefixtures("covers_processes")

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
        if b"langchain_mlflow_tracer.delivery.process" in command and str(folder).encode() in command:
            found.append(int(process.name))
    return found


on_linux = pytest.mark.skipif(not Path("/proc").exists(), reason="reads Linux's /proc to count processes")


@on_linux
def test_traces_arrive_though_the_application_exits_without_flush(store_uri: str, tmp_path: Path) -> None:
    settings = {"tracking_uri": store_uri, "spool_dir": tmp_path / "spool", "exit_timeout": 0}
    ended = run(settings, count=5)
    assert ended.errors == ""
    wait_for(lambda: waiting(tmp_path / "spool") == 0, STARTED)
    found = Client(store_uri).search_traces(locations=[own_experiment()])
    assert sorted(trace.info.trace_id for trace in found) == sorted(ended.ids)
    wait_for(lambda: not children_of(tmp_path / "spool"), STARTED)


@on_linux
def test_the_forwarder_process_of_a_killed_application_sends_its_traces_and_ends(
    store_uri: str, tmp_path: Path
) -> None:
    settings = {"tracking_uri": store_uri, "spool_dir": tmp_path / "spool", "durability": "sync"}
    ended = run(settings, count=150, end="kill", pace=0.01)
    wait_for(lambda: waiting(tmp_path / "spool") == 0, STARTED)
    assert len(Client(store_uri).search_traces(locations=[own_experiment()], max_results=500)) == len(
        ended.ids
    )
    wait_for(lambda: not children_of(tmp_path / "spool"), STARTED)


@on_linux
def test_several_tracers_share_one_forwarder_process_and_replace_it_if_it_is_killed(
    make_tracer: MakeTracer, server: str, tmp_path: Path
) -> None:
    one = make_tracer(server, "several", forwarder="auto")
    two = make_tracer(server, "several", forwarder="auto", exit_timeout=3)
    for tracer in (one, two):
        RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
        assert tracer.flush(timeout=STARTED)
    wait_for(lambda: len(children_of(tmp_path / "spool")) == 1, STARTED)
    (child,) = children_of(tmp_path / "spool")
    os.kill(child, signal.SIGKILL)
    RunnableLambda(str).invoke(2, {"callbacks": [one]})
    assert one.flush(timeout=STARTED)
    assert children_of(tmp_path / "spool") != [child]
    assert len(in_experiment(server, "several")) == 3


@on_linux
def test_an_application_does_not_import_mlflow_to_send_to_a_server(server: str, tmp_path: Path) -> None:
    code = (
        "import sys; from langchain_core.runnables import RunnableLambda\n"
        "from langchain_mlflow_tracer import MlflowTracer\n"
        "tracer = MlflowTracer(sys.argv[1], 'light', spool_dir=sys.argv[2])\n"
        "for number in range(3): RunnableLambda(str).invoke(number, {'callbacks': [tracer]})\n"
        f"assert tracer.flush({STARTED})\n"
        "stats = tracer.stats()\n"
        "assert (stats['delivered'], stats['waiting'], stats['problems']) == (3, 0, {}), stats\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'mlflow']\n"
    )
    subprocess.run([sys.executable, "-c", code, server, str(tmp_path / "spool")], check=True, timeout=60)
    assert len(in_experiment(server, "light")) == 3
    wait_for(lambda: not children_of(tmp_path / "spool"), STARTED)


def test_the_forwarder_process_imports_neither_langchain_nor_mlflow_at_its_start() -> None:
    code = (
        "import sys, langchain_mlflow_tracer.delivery.process\n"
        "assert not {'langchain_core', 'mlflow', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@on_linux
def test_applications_share_one_forwarder_process_and_start_another_after_its_parent_is_killed(
    server: str, tmp_path: Path
) -> None:
    folder = tmp_path / "spool"
    code = (
        "import sys; from langchain_core.runnables import RunnableLambda\n"
        "from langchain_mlflow_tracer import MlflowTracer\n"
        "tracer = MlflowTracer(sys.argv[1], 'many', spool_dir=sys.argv[2])\n"
        "for line in sys.stdin: RunnableLambda(str).invoke(line, {'callbacks': [tracer]})\n"
    )
    command = [sys.executable, "-c", code, server, str(folder)]
    applications = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(3)]
    ask(applications)
    wait_for(lambda: len(in_experiment(server, "many")) == 3, STARTED)
    wait_for(lambda: len(children_of(folder)) == 1, STARTED)
    (child,) = children_of(folder)
    (parent,) = [one for one in applications if one.pid == parent_of(child)]
    parent.kill()
    parent.communicate()
    applications.remove(parent)
    wait_for(lambda: children_of(folder) == [], STARTED)
    ask(applications)
    wait_for(lambda: len(in_experiment(server, "many")) == 5, STARTED)
    wait_for(lambda: len(children_of(folder)) == 1, STARTED)
    for one in applications:
        one.communicate(timeout=STARTED)
    wait_for(lambda: not children_of(folder), STARTED)


def ask(applications: list[subprocess.Popen[bytes]]) -> None:
    """Let each run a chain."""
    for one in applications:
        assert one.stdin is not None
        one.stdin.write(b"question\n")
        one.stdin.flush()


def parent_of(pid: int) -> int:
    """The id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def in_experiment(server: str, name: str) -> list[Trace]:
    """Return the traces of an experiment, none while it is not there."""
    client = Client(server)
    found = client.get_experiment_by_name(name)
    return [] if found is None else list(client.search_traces(locations=[found.experiment_id]))


@on_linux
def test_the_forwarder_process_stays_after_sigterm_while_its_parent_lives(
    make_tracer: MakeTracer, server: str, tmp_path: Path
) -> None:
    tracer = make_tracer(server, "told", forwarder="process")
    for _ in range(2):
        RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
        assert tracer.flush(timeout=STARTED)
        (child,) = children_of(tmp_path / "spool")
        if not in_experiment(server, "told")[1:]:
            os.kill(child, signal.SIGTERM)
    assert tracer.close()
    wait_for(lambda: not children_of(tmp_path / "spool"))


class Strict(BaseHTTPRequestHandler):
    """An MLflow server that refuses every trace for ever, and notes with what credentials it was asked."""

    asked_with: ClassVar[set[str | None]] = set()

    def do_GET(self) -> None:
        self.answer(200, b"3.17.2")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(400, b"never")

    def answer(self, status: int, body: bytes) -> None:
        self.asked_with.add(self.headers["Authorization"])
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def strict() -> Iterator[str]:
    Strict.asked_with.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Strict)
    thread = threading.Thread(target=server.serve_forever, args=(STOP_POLL,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_warnings_of_the_forwarder_process_are_in_the_log_of_its_parent(
    make_tracer: MakeTracer, strict: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = make_tracer(f"http://{strict}", forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
    assert tracer.flush(timeout=STARTED) is False
    assert tracer.stats()["dead_letters"] == 1
    wait_for(
        lambda: (
            "a trace was rejected permanently and is kept as a dead letter: /v1/traces answered 400"
            in caplog.text
        )
    )
    assert tracer.stats()["problems"] == {"dead_letter": 1}


def test_the_count_of_a_warning_that_does_not_fit_into_the_pipe_is_in_the_next_line_of_its_cause() -> None:
    code = (
        "import logging, sys\n"
        "from langchain_mlflow_tracer.delivery.process import ParentLog\n"
        "log = ParentLog(logging.getLogger('test'))\n"
        "for _ in range(500): log.report('full', 'x' * 900, count=2)\n"
        "print('filled', file=sys.stderr, flush=True)\n"
        "sys.stdin.readline()\n"
        "log.report('other', 'another cause')\n"
        "log.report('full', 'the next line')\n"
        "log.report('full', 'the last line')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == b"filled\n"
        lines = [process.stdout.readline()]  # which empties the pipe
        process.stdin.write(b"\n")
        process.stdin.close()
        lines += process.stdout.readlines()
    *sent, other, following, last = [json.loads(line) for line in lines]
    assert 0 < len(sent) < 500  # the pipe was full
    assert other == ["other", "another cause", 1]
    assert following == ["full", "the next line", 2 * (500 - len(sent)) + 1]
    assert last == ["full", "the last line", 1]


@pytest.mark.parametrize("character", ["\\x00", "\\U0001f600", "\\ud800", "x"])
def test_a_warning_of_any_characters_is_a_line_that_a_pipe_takes_as_a_whole(character: str) -> None:
    code = (
        "import logging\n"
        "from langchain_mlflow_tracer.delivery.process import ParentLog\n"
        f"ParentLog(logging.getLogger('test')).report('cause', '{character}' * 5000)\n"
    )
    (line,) = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True
    ).stdout.splitlines()
    cause, text, count = json.loads(line)
    assert (cause, count) == ("cause", 1)
    assert text
    assert len(line) < select.PIPE_BUF


def test_an_application_that_exits_while_its_server_hangs_logs_why_traces_are_pending(
    tmp_path: Path,
) -> None:
    with hanging() as address:
        # Long enough for a process to start on a slow machine, and too short for its question to fail.
        ended = run({"tracking_uri": address, "spool_dir": tmp_path / "spool", "exit_timeout": 5}, count=5)
    assert f"{address} has not answered yet: traces wait on disk" in ended.errors
    assert waiting(tmp_path / "spool") == len(ended.ids) == 5


def test_the_forwarder_process_uses_credentials_that_were_added_after_its_start(
    make_tracer: MakeTracer, strict: str, server: str
) -> None:
    make_tracer(server, "first", forwarder="process")
    later = make_tracer(server, "first", forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [later]})
    assert later.flush(timeout=STARTED)
    secret = make_tracer(f"http://ada:hunter2@{strict}", forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [secret]})
    secret.flush(timeout=STARTED)
    assert f"Basic {base64.b64encode(b'ada:hunter2').decode()}" in Strict.asked_with


@pytest.mark.parametrize("name", ["executable", "MODULE"])
def test_a_thread_sends_traces_if_no_forwarder_process_can_run(
    name: str,
    make_tracer: MakeTracer,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(supervisor, "LOOK", 0.05)
    monkeypatch.setattr(sys if name == "executable" else child, name, "/nowhere/python")
    tracer = make_tracer(server, "nowhere", forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
    assert tracer.flush(timeout=STARTED)
    assert "a thread of this process sends the traces" in caplog.text
    assert tracer.close()


def test_a_thread_sends_traces_if_the_executable_is_not_python(
    make_tracer: MakeTracer, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    tracer = make_tracer(store_uri, forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
    assert tracer.flush(timeout=STARTED)


def test_the_forwarder_process_ends_with_1_if_its_destination_accepts_no_traces(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    fill(folder, "http://127.0.0.1:9", 2)
    child = subprocess.run(
        [sys.executable, "-m", "langchain_mlflow_tracer.delivery.process", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, timeout=STARTED, check=False,
    )  # fmt: skip
    assert child.returncode == 1
    spool = Spool(folder, max_bytes=2**40)
    (failed,) = spool.figures.failures()
    assert json.loads(failed.destination)[0] == "http://127.0.0.1:9"
    spool.close()


def test_the_application_logs_the_error_of_a_database_that_fails(
    make_tracer: MakeTracer, store_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "12345")
    tracer = make_tracer(store_uri, forwarder="process")
    RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
    wait_for(lambda: "No Experiment with id=12345" in caplog.text, STARTED)


def test_the_application_logs_and_counts_an_attachment_that_mlflow_refuses(
    make_tracer: MakeTracer, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy(server) as proxy:
        proxy.fault = answers_to("PUT", 403)
        Client(server).create_experiment("refused", artifact_location="mlflow-artifacts:/refused")
        tracer = make_tracer(proxy.address, "refused", forwarder="process")
        RunnableLambda(str).invoke(as_data_uri(picture()), {"callbacks": [tracer]})
        assert tracer.flush(timeout=STARTED)
        wait_for(lambda: "traces are stored without attachments" in caplog.text)
    assert tracer.stats()["problems"] == {"attachment_refused": 1}
