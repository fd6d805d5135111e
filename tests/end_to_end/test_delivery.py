"""Runs whole applications against servers that fail, kills them, and looks at what the next one delivers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import MakeTracer, wait_for
from tests.support.family import WORKERS
from tests.support.faults import answering, hanging, refusing
from tests.support.proxy import HEALTHY, FaultProxy, redirects, shows_login, slow
from tests.support.stored import experiment_id, root, stored_traces

ROOT = Path(__file__).resolve().parents[2]

GUARD = 10.0
"""Seconds after its main job in which a process is gone. The promise is a quarter of it (`exit_timeout`, and
half a second), and `python -m benchmarks.exit_time` measures it; here other tests keep both cores busy."""


@dataclass(frozen=True)
class Ended:
    """How an application ended: what it said, when it was gone, what it wrote to stderr."""

    done: float
    slowest: float
    ids: list[str]
    exited: float
    returncode: int
    errors: str


def run(settings: dict[str, Any], count: int = 20, **how: object) -> Ended:
    """Run an application to its end."""
    told = json.dumps({"settings": settings, "count": count, **how}, default=str)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.application", told],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    exited = time.time()
    assert ended.stdout, ended.stderr
    said = {
        name: value for name, value in json.loads(ended.stdout).items() if name in {"done", "slowest", "ids"}
    }
    return Ended(**said, exited=exited, returncode=ended.returncode, errors=ended.stderr)


def waiting(spool_dir: Path) -> int:
    """How many traces wait in a spool."""
    spool = Spool(spool_dir, max_bytes=2**40)
    try:
        return spool.figures.totals().waiting
    finally:
        spool.close()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


FAULTS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "refusing": refusing,
    "hanging": hanging,
    "answering 500": lambda: answering(500),
}


class TestAServerThatFails:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_failing_server_does_not_delay_the_application_and_the_next_process_sends_the_rest(
        self, fault: str, spool_dir: Path, make_tracer: MakeTracer, server: str
    ) -> None:
        with FAULTS[fault]() as address:
            ended = run({"tracking_uri": address, "spool_dir": spool_dir}, count=50)
        assert ended.returncode == 0
        assert ended.exited - ended.done <= GUARD
        assert ended.slowest < 1.0
        assert "Traceback" not in ended.errors
        # Of a server that hangs nobody knows so soon whether it is only slow.
        assert (fault != "hanging") <= len(ended.errors.splitlines()) <= 2, ended.errors
        assert waiting(spool_dir) == 50
        self._deliver(spool_dir, server, fault)
        found = stored_traces(server, make_tracer(server), experiment_id(server, fault))
        assert sorted(trace.info.trace_id for trace in found) == sorted(ended.ids)
        assert {len(trace.data.spans) for trace in found} == {4}

    @staticmethod
    def _deliver(spool_dir: Path, server: str, experiment: str) -> None:
        """What waits keeps the destination it was made for: here that address was a stand-in's."""
        spool = Spool(spool_dir, max_bytes=2**40)
        spool._database.rows("UPDATE items SET destination = ?", json.dumps([server, experiment, None]))
        spool.close()
        ended = run({"tracking_uri": server, "spool_dir": spool_dir, "exit_timeout": 30}, count=1)
        assert ended.returncode == 0, ended.errors
        # Where the child of the first process has not given up yet, it delivers, and the second one has left.
        wait_for(lambda: waiting(spool_dir) == 0, timeout=30)

    def test_results_are_the_same_while_the_server_hangs(self, make_tracer: MakeTracer) -> None:
        with hanging() as address:
            tracer = make_tracer(address)
            doubled: Runnable[int, int] = RunnableLambda(lambda number: number * 2)
            assert doubled.batch([1, 2, 3], {"callbacks": [tracer]}) == [2, 4, 6]
            began = time.monotonic()
            assert tracer.flush(timeout=0.3) is False
            assert time.monotonic() - began < 2


class TestAProxyThatAnswersForTheServer:
    """A login of a company's network lets `/version` pass, and answers what comes after it."""

    @pytest.mark.parametrize("fault", ["302 to a login page", "303", "307", "308", "200 with a login page"])
    def test_traces_behind_a_login_page_are_stored_once_when_the_proxy_passes_requests_again(
        self, fault: str, server: str, make_tracer: MakeTracer
    ) -> None:
        with FaultProxy(server) as proxy, FaultProxy() as elsewhere:
            proxy.fault = {
                "302 to a login page": redirects("POST /v1/traces", 302, "/login?next=%2Fv1%2Ftraces"),
                "200 with a login page": shows_login("POST /v1/traces"),
            }.get(fault) or redirects("POST /v1/traces", int(fault), f"{elsewhere.address}/v1/traces")
            tracer = make_tracer(proxy.address, f"proxy {fault}")
            for number in range(20):
                RunnableLambda(str).invoke(number, {"callbacks": [tracer]})
            wait_for(lambda: tracer.stats()["last_error"])
            assert tracer.flush(timeout=0.5) is False
            assert tracer.stats()["waiting"] == 20
            assert "MLFLOW_TRACKING_URI" in str(tracer.stats()["last_error"])
            assert not [one for one in proxy.seen if one.path.startswith("/login")]
            proxy.fault = HEALTHY
            found = stored_traces(server, tracer, experiment_id(server, f"proxy {fault}"))
            assert sorted(int(root(trace).inputs) for trace in found) == [*range(20)]
            assert elsewhere.seen == []


class TestAProcessThatDies:
    @pytest.mark.parametrize("end", ["kill", "os_exit", "sigterm"])
    def test_with_durability_sync_every_trace_is_on_disk_when_invoke_returns(
        self, end: str, spool_dir: Path
    ) -> None:
        with refusing() as address:
            settings = {"tracking_uri": address, "spool_dir": spool_dir, "durability": "sync"}
            run(settings, count=200, end=end)
        assert waiting(spool_dir) == 200

    def test_with_durability_background_a_killed_process_loses_only_traces_of_its_last_moment(
        self, spool_dir: Path
    ) -> None:
        with refusing() as address:
            ended = run({"tracking_uri": address, "spool_dir": spool_dir}, count=60, end="kill", pace=0.01)
        # At a hundred a second five are of the last 50 ms; other tests keep both cores busy meanwhile.
        assert waiting(spool_dir) >= len(ended.ids) - 20

    def test_the_next_process_stores_traces_of_a_killed_process_once(
        self, spool_dir: Path, make_tracer: MakeTracer, server: str
    ) -> None:
        settings = {
            "tracking_uri": server,
            "experiment": "killed",
            "spool_dir": spool_dir,
            "durability": "sync",
        }
        killed = run({**settings, "forwarder": "none"}, count=30, end="kill")
        tracer = make_tracer(server, "killed", spool_dir=spool_dir)
        wait_for(lambda: waiting(spool_dir) == 0, 30)
        found = stored_traces(server, tracer, experiment_id(server, "killed"))
        assert sorted(trace.info.trace_id for trace in found) == sorted(killed.ids)

    def test_an_application_that_ends_by_an_exception_loses_no_trace(self, spool_dir: Path) -> None:
        with refusing() as address:
            ended = run({"tracking_uri": address, "spool_dir": spool_dir}, count=20, end="exception")
        assert ended.returncode == 1
        assert waiting(spool_dir) == 20
        assert ended.exited - ended.done <= GUARD

    def test_chains_that_still_run_in_threads_do_not_delay_the_exit(
        self, spool_dir: Path, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        with refusing() as address:
            ended = run(
                {"tracking_uri": address, "spool_dir": spool_dir}, count=100, end="threads", journal=journal
            )
        assert ended.exited - ended.done <= GUARD
        assert waiting(spool_dir) >= 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
class TestRelatives:
    @pytest.mark.parametrize("family", ["fork", "fork_before", "prefork", "spawn"])
    def test_parent_and_child_processes_keep_all_their_traces(
        self, family: str, spool_dir: Path, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        with refusing() as address:
            settings = {"tracking_uri": address, "spool_dir": spool_dir}
            ended = run(settings, count=20, family=family, journal=journal)
        assert ended.returncode == 0, ended.errors
        made = {json.loads(line)["id"] for line in journal.read_text().splitlines()}
        assert len(made) == 20 * (WORKERS if family == "prefork" else 2)
        assert waiting(spool_dir) == len(made)

    def test_a_fork_in_the_middle_of_an_export_loses_no_trace(
        self, spool_dir: Path, make_tracer: MakeTracer, server: str, tmp_path: Path
    ) -> None:
        journal = tmp_path / "journal"
        with FaultProxy(server) as proxy:
            proxy.fault = slow(0.5)
            settings = {
                "tracking_uri": proxy.address,
                "experiment": "forks",
                "spool_dir": spool_dir,
                "forwarder": "thread",
            }
            ended = run(settings, count=20, family="fork_in_export", journal=journal)
            assert ended.returncode == 0, ended.errors
            proxy.fault = HEALTHY
            make_tracer(proxy.address, "forks", spool_dir=spool_dir)
            wait_for(lambda: waiting(spool_dir) == 0, 60)
        made = {json.loads(line)["id"] for line in journal.read_text().splitlines()}
        found = stored_traces(server, make_tracer(server, "forks"), experiment_id(server, "forks"))
        assert {trace.info.trace_id for trace in found} == made
        assert len(found) == 80


class TestFlushAndClose:
    @pytest.fixture
    def chain(self) -> Runnable[Any, Any]:
        return FakeListChatModel(responses=["yes"])

    def test_flush_of_nothing_returns_true(self, make_tracer: MakeTracer, store_uri: str) -> None:
        assert make_tracer(store_uri).flush(timeout=0) is True

    async def test_aflush_waits_without_blocking_the_event_loop(
        self, make_tracer: MakeTracer, store_uri: str, chain: Runnable[Any, Any]
    ) -> None:
        tracer = make_tracer(store_uri)
        await chain.ainvoke("?", {"callbacks": [tracer]})
        assert await tracer.aflush(timeout=60)
        assert tracer.stats()["waiting"] == 0

    def test_the_end_of_a_with_block_sends_traces_and_a_closed_tracer_records_nothing(
        self, make_tracer: MakeTracer, store_uri: str, chain: Runnable[Any, Any]
    ) -> None:
        with make_tracer(store_uri, exit_timeout=30) as tracer:
            chain.invoke("?", {"callbacks": [tracer]})
        chain.invoke("?", {"callbacks": [tracer]})
        assert tracer.close() is True
        assert len(stored_traces(store_uri, make_tracer(store_uri))) == 1

    def test_a_run_that_is_open_when_the_tracer_is_closed_is_kept_as_cut_off(
        self, make_tracer: MakeTracer, store_uri: str
    ) -> None:
        tracer = make_tracer(store_uri)
        entered, leave = threading.Event(), threading.Event()

        def wait(value: int) -> int:
            entered.set()
            leave.wait(30)
            return value

        slow = RunnableLambda(wait)
        thread = threading.Thread(target=slow.invoke, args=(1, {"callbacks": [tracer]}))
        thread.start()
        entered.wait(10)
        tracer.close(timeout=30)
        leave.set()
        thread.join()
        (trace,) = stored_traces(store_uri, make_tracer(store_uri))
        assert trace.info.tags["lc.outcome"] == "cut_off"
        assert root(trace).inputs == 1

    def test_flush_returns_false_once_after_a_trace_was_rejected_permanently(
        self, make_tracer: MakeTracer, chain: Runnable[Any, Any]
    ) -> None:
        with answering(400, version="3.17.2") as address:
            tracer = make_tracer(address)
            chain.invoke("?", {"callbacks": [tracer]})
            assert tracer.flush(timeout=30) is False
            assert tracer.stats()["dead_letters"] == 1
            assert tracer.flush(timeout=30) is True

    def test_a_full_queue_drops_new_traces_counts_them_and_logs_it_once(
        self, make_tracer: MakeTracer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        tracer = make_tracer("http://127.0.0.1:9", queue_max_bytes=2**20, forwarder="none")
        blocked = Spool(tmp_path / "spool", max_bytes=2**40)
        with (
            blocked._database.transaction(),
            caplog.at_level(logging.WARNING),
        ):  # the writer waits for the disk
            for _ in range(5):
                RunnableLambda(len).invoke("x" * 400_000, {"callbacks": [tracer]})
            dropped = tracer.stats()["dropped"]["queue_full"]
            assert 1 <= dropped <= 3
        assert sum("dropped" in record.message for record in caplog.records) == 1
        wait_for(lambda: tracer.stats()["waiting"] == 5 - dropped)

    def test_a_new_tracer_for_every_call_starts_no_thread(
        self, make_tracer: MakeTracer, chain: Runnable[Any, Any]
    ) -> None:
        make_tracer("http://127.0.0.1:9")
        chain.invoke("?", {"callbacks": [make_tracer("http://127.0.0.1:9")]})
        wait_for(lambda: any("lane" in thread.name for thread in threading.enumerate()))
        before = threading.active_count()
        for _ in range(20):
            chain.invoke("?", {"callbacks": [make_tracer("http://127.0.0.1:9")]})
        assert threading.active_count() == before


class TestSecrets:
    def test_the_spool_holds_no_secret_and_only_its_owner_may_read_it(
        self, make_tracer: MakeTracer, spool_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        key, password = "sk-proj-0123456789abcdefghijABCDEF", "hunter2-in-the-uri"
        tracer: MlflowTracer = make_tracer(f"http://ada:{password}@127.0.0.1:9")
        RunnableLambda(lambda value: value).invoke({"text": f"my key is {key}"}, {"callbacks": [tracer]})
        wait_for(lambda: tracer.stats()["problems"].get("export_failed"))
        files = [file for file in spool_dir.rglob("*") if file.is_file()]
        content = b"".join(file.read_bytes() for file in files)
        assert b"my key is [REDACTED]" in content
        assert key.encode() not in content
        assert password.encode() not in content
        assert password not in caplog.text
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert spool_dir.stat().st_mode & 0o777 == 0o700
