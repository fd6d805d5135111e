"""Delivers by hand, and as a sidecar that is told to end, loses its folder and its server."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from langchain_mlflow_tracer.cli.status import state
from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.cli.test_cli import KEYS
from tests.conftest import wait_for
from tests.support import kept
from tests.support.faults import answering, refusing
from tests.support.operating import COMMAND, ROOT, bury, call, environment, fill, start

pytestmark = pytest.mark.usefixtures("covers_processes")

IMPORT_TIMEOUT = 60.0
"""Seconds: the process imports mlflow before its first delivery, and both cores may be busy."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


class TestForward:
    def test_forward_succeeds_if_no_trace_is_pending(self, folder: Path) -> None:
        result = call("forward", "--spool-dir", folder, "--json")
        assert (result.exit_code, json.loads(result.output)["delivered"]) == (0, 0)

    def test_forward_sends_pending_traces(self, folder: Path, store_uri: str) -> None:
        fill(folder, store_uri)
        result = call("forward", "--spool-dir", folder, "--json")
        assert result.exit_code == 0
        found = json.loads(result.output)
        assert set(found) == KEYS | {"delivered", "refused"}
        assert (found["delivered"], found["waiting"], found["refused"]) == (3, 0, 0)

    def test_forward_sends_traces_that_were_running_when_their_process_died(self, folder: Path) -> None:
        with kept.stand_in() as address:
            uri = f"{address}/well"
            where = Destination(uri).to_text()
            fill(folder, uri)
            spool = Spool(folder, max_bytes=2**40)
            waiting = spool.lease(where, 10, 2**20)
            spool.ack(waiting, where)
            spool.running.put([Item(one.key, where, "p", one.payload) for one in waiting])
            spool.close()
            result = call("forward", "--spool-dir", folder, "--json")
            found = json.loads(result.output)
            assert (result.exit_code, found["delivered"], found["waiting"], found["running"]) == (0, 3, 0, 0)
            assert len(kept.in_stand_in(uri)) == 3

    def test_forward_downloads_no_price_list_unless_one_is_configured(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "to be undone")
        monkeypatch.delenv("MLFLOW_MODEL_CATALOG_URI")
        call("forward", "--spool-dir", folder)
        assert os.environ["MLFLOW_MODEL_CATALOG_URI"] == ""
        monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "file:///prices")
        call("forward", "--spool-dir", folder)
        assert os.environ["MLFLOW_MODEL_CATALOG_URI"] == "file:///prices"

    def test_forward_exits_with_1_and_the_reason_if_traces_are_left(self, folder: Path) -> None:
        with answering(500) as address:
            fill(folder, address)
            result = call("forward", "--spool-dir", folder, "--timeout", 0.5)
        assert result.exit_code == 1
        assert "/version answered 500" in result.output

    def test_forward_exits_with_1_if_traces_are_rejected(self, folder: Path) -> None:
        with answering(400, version="3.17.2") as address:
            fill(folder, address)
            result = call("forward", "--spool-dir", folder)
        assert result.exit_code == 1
        assert "now rejected 3 traces" in result.output

    def test_forward_sends_dead_letters_that_were_put_back(self, folder: Path, store_uri: str) -> None:
        fill(folder, store_uri)
        bury(folder, "no good", 3)
        assert call("dead-letters", "retry", "--all", "--spool-dir", folder).exit_code == 0
        assert json.loads(call("forward", "--spool-dir", folder, "--json").output)["delivered"] == 3

    def test_forward_exits_with_1_and_a_message_for_a_wrong_setting(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
        result = call("forward", "--spool-dir", folder)
        assert result.exit_code == 1
        assert "MLFLOW_TRACKING_URI" in result.output
        assert "Traceback" not in result.output

    def test_forward_shows_a_progress_bar_on_a_terminal_only(self, folder: Path, store_uri: str) -> None:
        fill(folder, store_uri)
        ours, theirs = pty.openpty()
        # Other tests keep both cores busy.
        command = [*COMMAND, "forward", "--spool-dir", str(folder), "--timeout", "90"]
        environ = environment(TERM="xterm")
        subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=theirs, check=True)
        assert b"Sending" in os.read(ours, 10_000)
        fill(folder, store_uri)
        assert "Sending" not in call("forward", "--spool-dir", folder).output


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    """Yield the address of a server in place of MLflow's: a database makes each process import more."""
    with kept.stand_in() as address:
        yield f"{address}/well"


def waiting(folder: Path) -> int | None:
    """Return how many traces wait; None while the spool cannot tell."""
    try:
        return state(folder).waiting if Spool.exists(folder) else None
    except SpoolError:
        return None


@contextmanager
def watching(folder: Path, log: Path, *more: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run `forward --watch` until it has the spool, and see that it is gone at the end."""
    with log.open("wb") as stderr:
        process = start("forward", "--watch", "--json", "--spool-dir", folder, *more, stderr=stderr)
    try:
        wait_for((folder / "drain.lock").exists, IMPORT_TIMEOUT)
        yield process
    finally:
        process.kill()
        process.communicate()


class TestWatch:
    @pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
    def test_watch_creates_the_folder_sends_new_traces_and_ends_after_a_signal(
        self, end: signal.Signals, folder: Path, stand_in: str, tmp_path: Path
    ) -> None:
        with watching(folder, tmp_path / "log") as process:
            assert state(folder).forwarding
            fill(folder, stand_in)
            wait_for(lambda: waiting(folder) == 0, IMPORT_TIMEOUT)
            process.send_signal(end)
            output, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        found = json.loads(output)
        assert (found["delivered"], found["waiting"], found["forwarding"]) == (3, 0, False)
        assert "Traceback" not in (tmp_path / "log").read_text()

    @pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
    def test_watch_exits_with_0_after_a_signal_at_the_very_start(
        self, end: signal.Signals, folder: Path, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        with log.open("wb") as stderr:
            process = start("forward", "--watch", "--json", "--spool-dir", folder, stderr=stderr)
        try:
            wait_for(lambda: b"Sending" in log.read_bytes(), IMPORT_TIMEOUT)
            process.send_signal(end)
            process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 0
        assert "Aborted" not in log.read_text()

    def test_watch_with_linger_sends_pending_traces_before_it_ends(
        self, folder: Path, store_uri: str, tmp_path: Path
    ) -> None:
        with watching(folder, tmp_path / "log", "--linger", IMPORT_TIMEOUT) as process:
            fill(folder, store_uri)
            process.terminate()  # mlflow is not even imported by then
            output, _ = process.communicate(timeout=IMPORT_TIMEOUT + 20)
        found = json.loads(output)
        assert (found["delivered"], found["waiting"]) == (3, 0)

    def test_watch_lingers_no_longer_than_its_limit(self, folder: Path, tmp_path: Path) -> None:
        with refusing() as address:
            fill(folder, address)
            with watching(folder, tmp_path / "log", "--linger", 0.5) as process:
                process.terminate()
                output, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert json.loads(output)["waiting"] == 3

    def test_watch_continues_after_its_folder_is_deleted(
        self, folder: Path, stand_in: str, tmp_path: Path
    ) -> None:
        with watching(folder, tmp_path / "log") as process:
            shutil.rmtree(folder)
            fill(folder, stand_in)
            wait_for(lambda: waiting(folder) == 0, IMPORT_TIMEOUT)
            assert process.poll() is None

    def test_watch_renames_a_damaged_file_and_logs_it(
        self, folder: Path, stand_in: str, tmp_path: Path
    ) -> None:
        folder.mkdir()
        (folder / "spool.db").write_bytes(b"this is no database, whatever its name says" * 100)
        with watching(folder, tmp_path / "log"):
            fill(folder, stand_in)
            wait_for(lambda: waiting(folder) == 0, IMPORT_TIMEOUT)
        assert "was damaged and put aside" in (tmp_path / "log").read_text()

    def test_watch_logs_a_server_that_is_down_once_and_exits_with_0(
        self, folder: Path, tmp_path: Path
    ) -> None:
        with refusing() as address:
            fill(folder, address)
            with watching(folder, tmp_path / "log") as process:
                wait_for(lambda: any(one.attempts > 2 for one in state(folder).failures), IMPORT_TIMEOUT)
                process.terminate()
                output, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert json.loads(output)["waiting"] == 3
        assert (tmp_path / "log").read_text().count("traces wait on disk: no answer") == 1
