"""Uses the command as an operator does."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from langchain_mlflow_tracer import codec
from langchain_mlflow_tracer.cli import main
from langchain_mlflow_tracer.destination import Destination
from langchain_mlflow_tracer.spool import Item, Spool
from tests.conftest import wait_for
from tests.faults import answering
from tests.test_exporters import record

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"spool_dir", "forwarding", "waiting", "waiting_bytes", "oldest_seconds", "running", "dead_letters"}
KEYS |= {"disk_bytes", "failures"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def fill(folder: Path, uri: str, count: int = 3) -> None:
    """Put traces for `uri` into the spool."""
    spool = Spool(folder, max_bytes=2**40)
    where = Destination(uri).to_text()
    spool.put([Item(f"tr-{n}", where, "p", codec.encode(record(n))) for n in range(1, count + 1)])
    spool.close()


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


class TestStatus:
    def test_of_a_spool_that_is_not_there_nothing_waits(self, folder: Path) -> None:
        result = call("status", "--spool-dir", folder, "--json")
        assert result.exit_code == 0
        assert json.loads(result.output)["waiting"] == 0
        assert set(json.loads(result.output)) == KEYS
        assert not folder.exists()

    def test_says_what_waits_how_old_and_how_large_it_is(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        found = json.loads(call("status", "--spool-dir", folder, "--json").output)
        assert (found["waiting"], found["dead_letters"], found["failures"]) == (3, 0, [])
        assert found["waiting_bytes"] > 1_000
        assert 0 <= found["oldest_seconds"] < 60
        assert "3 traces" in call("status", "--spool-dir", folder).output

    def test_says_the_last_error(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        spool = Spool(folder, max_bytes=2**40)
        spool.nack(Destination("http://127.0.0.1:9").to_text(), "no route to host")
        spool.close()
        assert "no route to host" in call("status", "--spool-dir", folder).output
        (failed,) = json.loads(call("status", "--spool-dir", folder, "--json").output)["failures"]
        assert (failed["destination"], failed["attempts"]) == ("http://127.0.0.1:9", 1)

    def test_counts_dead_letters(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        spool = Spool(folder, max_bytes=2**40)
        spool.bury(spool.lease(Destination("http://127.0.0.1:9").to_text(), 1, 1)[0], "no good")
        spool.close()
        found = json.loads(call("status", "--spool-dir", folder, "--json").output)
        assert (found["waiting"], found["dead_letters"]) == (2, 1)

    def test_finds_the_spool_that_tracers_use_by_default(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(folder, "http://127.0.0.1:9")
        monkeypatch.setenv("LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR", str(folder))
        assert json.loads(call("status", "--json").output)["waiting"] == 3

    @pytest.mark.parametrize("command", ["status", "forward"])
    def test_a_spool_that_cannot_be_read_is_exit_code_1_and_a_message(
        self, command: str, folder: Path
    ) -> None:
        folder.mkdir()
        (folder / "spool.db").write_bytes(b"this is no database, whatever its name says" * 100)
        result = call(command, "--spool-dir", folder)
        assert result.exit_code == 1
        assert "does not work" in result.output
        assert "Traceback" not in result.output


class TestForward:
    def test_of_nothing_is_done(self, folder: Path) -> None:
        result = call("forward", "--spool-dir", folder, "--json")
        assert (result.exit_code, json.loads(result.output)["delivered"]) == (0, 0)

    def test_delivers_what_waits(self, folder: Path, store_uri: str) -> None:
        fill(folder, store_uri)
        result = call("forward", "--spool-dir", folder, "--json")
        assert result.exit_code == 0
        found = json.loads(result.output)
        assert set(found) == KEYS | {"delivered", "refused"}
        assert (found["delivered"], found["waiting"], found["refused"]) == (3, 0, 0)

    def test_what_is_left_is_exit_code_1_and_says_why(self, folder: Path) -> None:
        with answering(500) as address:
            fill(folder, address)
            result = call("forward", "--spool-dir", folder, "--timeout", 0.5)
        assert result.exit_code == 1
        assert "/version answered 500" in result.output

    def test_what_is_refused_is_exit_code_1_and_a_dead_letter(self, folder: Path) -> None:
        with answering(400, version="3.17.2") as address:
            fill(folder, address)
            result = call("forward", "--spool-dir", folder)
        assert result.exit_code == 1
        assert "3 traces, now among the dead letters" in result.output

    def test_watch_stays_delivers_what_comes_and_ends_by_ctrl_c(self, folder: Path, store_uri: str) -> None:
        command = [sys.executable, "-m", "langchain_mlflow_tracer", "forward", "--watch", "--json"]
        process = subprocess.Popen(
            [*command, "--spool-dir", str(folder)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: Spool.exists(folder), 20)
        fill(folder, store_uri)
        spool = Spool(folder, max_bytes=2**40)
        wait_for(lambda: spool.totals().waiting == 0, 30)
        spool.close()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert json.loads(output)["waiting"] == 0

    def test_shows_a_bar_on_a_terminal_only(self, folder: Path, store_uri: str) -> None:
        fill(folder, store_uri)
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "langchain_mlflow_tracer", "forward", "--spool-dir"]
        command += [str(folder), "--timeout", "90"]  # other tests keep both cores busy
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
        subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=theirs, check=True)
        assert b"Delivering" in os.read(ours, 10_000)
        fill(folder, store_uri)
        piped = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True)
        assert b"Delivering" not in piped.stdout + piped.stderr


def test_ages_and_sizes_are_told_in_units_people_read(folder: Path) -> None:
    spool = Spool(folder, max_bytes=2**40, clock=lambda: time.time() - 7_300)
    spool.put([Item("k", Destination("http://h").to_text(), "p", b"x" * 2_500_000)])
    spool.close()
    output = call("status", "--spool-dir", folder).output
    assert "2.0 h" in output
    assert "2.5 MB" in output


def test_the_version_is_told() -> None:
    assert "langchain-mlflow-tracer, version" in call("--version").output
