"""Uses the command as an operator does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType

import pytest

from langchain_mlflow_tracer import cli
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.support.operating import call, fill

KEYS = {"spool_dir", "forwarding", "waiting", "waiting_bytes", "oldest_seconds", "running", "dead_letters"}
KEYS |= {"disk_bytes", "failures"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


class TestStatus:
    def test_status_of_a_missing_spool_shows_no_pending_trace(self, folder: Path) -> None:
        result = call("status", "--spool-dir", folder, "--json")
        assert result.exit_code == 0
        assert json.loads(result.output)["waiting"] == 0
        assert set(json.loads(result.output)) == KEYS
        assert not folder.exists()

    def test_status_shows_number_age_and_size_of_pending_traces(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        found = json.loads(call("status", "--spool-dir", folder, "--json").output)
        assert (found["waiting"], found["dead_letters"], found["failures"]) == (3, 0, [])
        assert found["waiting_bytes"] > 1_000
        assert 0 <= found["oldest_seconds"] < 60
        assert "3 traces" in call("status", "--spool-dir", folder).output

    def test_status_shows_the_last_error(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        spool = Spool(folder, max_bytes=2**40)
        spool.nack(Destination("http://127.0.0.1:9").to_text(), "no route to host")
        spool.close()
        assert "no route to host" in call("status", "--spool-dir", folder).output
        (failed,) = json.loads(call("status", "--spool-dir", folder, "--json").output)["failures"]
        assert (failed["destination"], failed["attempts"]) == ("http://127.0.0.1:9", 1)

    def test_status_counts_dead_letters(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        spool = Spool(folder, max_bytes=2**40)
        spool.dead_letters.add(spool.lease(Destination("http://127.0.0.1:9").to_text(), 1, 1)[0], "no good")
        spool.close()
        found = json.loads(call("status", "--spool-dir", folder, "--json").output)
        assert (found["waiting"], found["dead_letters"]) == (2, 1)

    def test_status_shows_whether_a_sender_is_running(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        assert json.loads(call("status", "--spool-dir", folder, "--json").output)["forwarding"] is False
        assert "not running" in call("status", "--spool-dir", folder).output
        spool = Spool(folder, max_bytes=2**40)
        drain = spool.drain()
        assert drain is not None
        assert json.loads(call("status", "--spool-dir", folder, "--json").output)["forwarding"] is True
        assert "sender       running" in call("status", "--spool-dir", folder).output
        drain.release()
        spool.close()

    def test_status_counts_running_traces(self, folder: Path) -> None:
        spool = Spool(folder, max_bytes=2**40)
        spool.running.put([Item("k", Destination("http://h").to_text(), "p", b"")])
        assert json.loads(call("status", "--spool-dir", folder, "--json").output)["running"] == 1
        assert "running      1 trace\n" in call("status", "--spool-dir", folder).output
        spool.close()

    def test_status_escapes_control_characters_in_the_error_of_a_server(self, folder: Path) -> None:
        spool = Spool(folder, max_bytes=2**40)
        spool.nack(Destination("http://h").to_text(), "answered 500: \x1b[2Jgone\nlines")
        spool.close()
        assert "answered 500: \\x1b[2Jgone lines" in call("status", "--spool-dir", folder).output

    def test_status_finds_the_spool_that_tracers_use_by_default(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(folder, "http://127.0.0.1:9")
        monkeypatch.setenv("LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR", str(folder))
        assert json.loads(call("status", "--json").output)["waiting"] == 3

    @pytest.mark.parametrize("command", ["status", "forward"])
    def test_status_and_forward_exit_with_1_and_a_message_if_the_spool_cannot_be_read(
        self, command: str, folder: Path
    ) -> None:
        folder.mkdir()
        (folder / "spool.db").write_bytes(b"this is no database, whatever its name says" * 100)
        result = call(command, "--spool-dir", folder)
        assert result.exit_code == 1
        assert "does not work" in result.output
        assert "Traceback" not in result.output


def test_status_prints_ages_and_sizes_in_suitable_units(folder: Path) -> None:
    spool = Spool(folder, max_bytes=2**40, clock=lambda: time.time() - 7_300)
    spool.put([Item("k", Destination("http://h").to_text(), "p", b"x" * 2_500_000)])
    spool.close()
    output = call("status", "--spool-dir", folder).output
    assert "2.0 h" in output
    assert "2.5 MB" in output


@pytest.mark.parametrize("name", ["status", "forward", "dead_letters", "doctor"])
def test_a_command_does_not_hide_the_module_of_the_same_name(name: str) -> None:
    assert isinstance(getattr(cli, name), ModuleType)


def test_the_command_prints_its_version() -> None:
    assert "langchain-mlflow-tracer, version" in call("--version").output


def test_status_and_list_create_no_folder(tmp_path: Path) -> None:
    assert call("status").exit_code == 0
    assert call("dead-letters", "list").exit_code == 0
    assert not (tmp_path / "state").exists()
