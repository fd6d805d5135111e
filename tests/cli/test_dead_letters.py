"""Lists, shows, retries and drops what was refused for ever, as an operator does."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from langchain_mlflow_tracer.cli.status import state
from langchain_mlflow_tracer.cli.trace import Trace
from langchain_mlflow_tracer.core.record import Status
from langchain_mlflow_tracer.encoding import otlp
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.delivery.test_exporters import record
from tests.support.operating import COMMAND, ROOT, bury, call, environment, fill

pytestmark = pytest.mark.usefixtures("covers_processes")

URI = "http://ada:secret@127.0.0.1:9"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a spool with two dead letters, tr-1 and tr-2, and tr-3 that waits."""
    fill(tmp_path / "spool", URI, experiment="assistant")
    bury(tmp_path / "spool", "answered 400: \x1b[2Jno\ngood", 2)
    return tmp_path / "spool"


def dead(folder: Path) -> set[str]:
    """Return the keys of what is dead now."""
    return {
        one["key"] for one in json.loads(call("dead-letters", "list", "--spool-dir", folder, "--json").stdout)
    }


class TestList:
    def test_says_key_age_size_name_destination_and_reason(self, folder: Path) -> None:
        output = call("dead-letters", "list", "--spool-dir", folder).stdout
        assert re.search(r"^tr-1  \d+ s ago  \d+ B  geography$", output, re.MULTILINE)
        assert "http://127.0.0.1:9 (experiment 'assistant')" in output
        assert "answered 400: \\x1b[2Jno good" in output
        assert "secret" not in output

    def test_as_json(self, folder: Path) -> None:
        found = json.loads(call("dead-letters", "list", "--spool-dir", folder, "--json").stdout)
        assert [one["key"] for one in found] == ["tr-1", "tr-2"]
        assert (found[0]["name"], found[0]["experiment_name"]) == ("geography", "assistant")
        assert found[0]["destination"] == "http://127.0.0.1:9"
        assert found[0]["bytes"] == len(otlp.encode(record(1)))
        assert found[0]["created"] <= found[0]["died"]

    def test_of_no_spool_there_are_none(self, tmp_path: Path) -> None:
        result = call("dead-letters", "list", "--spool-dir", tmp_path / "none")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "No rejected traces" in result.stderr
        assert not (tmp_path / "none").exists()

    def test_one_that_is_no_trace_is_listed_and_shown_too(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool", 2**40)
        spool.put([Item("tr-odd", Destination("http://h").to_text(), "p", b"\xff\xff")])
        spool.close()
        bury(tmp_path / "spool", "not a trace")
        assert "(not readable)" in call("dead-letters", "list", "--spool-dir", tmp_path / "spool").stdout
        assert (
            "not a trace" in call("dead-letters", "show", "tr-odd", "--spool-dir", tmp_path / "spool").stdout
        )


class TestShow:
    def test_draws_the_spans_as_a_tree(self, folder: Path) -> None:
        lines = call("dead-letters", "show", "tr-1", "--spool-dir", folder).stdout.splitlines()
        assert "reason       answered 400: \\x1b[2Jno good" in lines
        assert "chain  CHAIN  ok  1.000 s, from 0.000 s" in lines
        assert '  in  {"messages": [{"role": "user", "content": "What?"}]}' in lines
        assert "  model  CHAT_MODEL  ok  1.000 s, from 0.000 s" in lines

    def test_as_json_has_everything(self, folder: Path) -> None:
        found = json.loads(call("dead-letters", "show", "tr-1", "--spool-dir", folder, "--json").stdout)
        chain, model = found["spans"]
        assert (chain["inputs"]["messages"][0]["content"], chain["parent_id"]) == ("What?", None)
        assert model["parent_id"] == chain["span_id"]
        assert model["attributes"]["mlflow.chat.tokenUsage"]["total_tokens"] == 15

    def test_of_one_that_died_again_the_last_death_is_shown(self, folder: Path) -> None:
        fill(folder, URI, 1, experiment="assistant")
        bury(folder, "worse", 9)
        found = json.loads(call("dead-letters", "show", "tr-1", "--spool-dir", folder, "--json").stdout)
        assert found["reason"] == "worse"

    def test_what_is_long_or_went_wrong_is_told_on_one_line(self) -> None:
        long = record(1)
        long.spans[0].inputs = "x\n" * 1_000
        long.spans[1].status, long.spans[1].status_message = Status.ERROR, "ValueError: no"
        long.spans[1].end_ns = None
        trace = Trace.read(otlp.encode(long))
        assert trace is not None
        lines = list(trace.tree())
        assert lines[1].startswith("  in  x x x")
        assert lines[1].endswith("…")
        assert len(lines[1]) < 120
        assert "  model  CHAT_MODEL  error  not ended, from 0.000 s" in lines
        assert lines[-1] == "    !   ValueError: no"

    @pytest.mark.parametrize("key", ["nope", ""])
    def test_a_key_that_is_not_there_is_exit_code_1_and_says_how_to_list(
        self, key: str, folder: Path, tmp_path: Path
    ) -> None:
        for spool in (folder, tmp_path / "none"):
            result = call("dead-letters", "show", key, "--spool-dir", spool)
            assert result.exit_code == 1
            assert "langchain-mlflow-tracer dead-letters list" in result.stderr


HOSTILE = {
    "995 brackets": "[" * 995,
    "nested 900 deep": "[" * 900 + "]" * 900,
    "nested 200 deep": "[" * 200 + "]" * 200,
    "50,000 keys": '{"a":' * 50_000,
    "5,000 digits": "[" + "9" * 5_000 + "]",
    "30 digits": "[" + "9" * 30 + "]",
    "lone surrogate as JSON": '["\\ud800"]',
    "no number": "[NaN, Infinity]",
}


def no_constant(name: str) -> None:
    raise AssertionError(f"JSON has no {name}")


class TestAnyLetter:
    @pytest.fixture(params=HOSTILE)
    def text(self, request: pytest.FixtureRequest) -> str:
        return HOSTILE[request.param]

    @staticmethod
    def buried(folder: Path, payload: bytes) -> Path:
        spool = Spool(folder, 2**40)
        spool.put([Item("tr-1", Destination("http://h").to_text(), "p", payload)])
        spool.close()
        bury(folder, "no \ud800".encode("utf-8", "backslashreplace").decode())
        return folder

    @staticmethod
    def printed(folder: Path) -> object:
        for arguments in (("list",), ("show", "tr-1"), ("list", "--json"), ("show", "tr-1", "--json")):
            result = call("dead-letters", *arguments, "--spool-dir", folder)
            assert (result.exit_code, result.exception) == (0, None)
        return json.loads(result.stdout, parse_constant=no_constant)

    def test_is_printed_whatever_its_texts_are(self, text: str, tmp_path: Path) -> None:
        trace = record(1)
        trace.spans[0].inputs = trace.spans[0].outputs = text
        trace.spans[0].name = trace.name = trace.spans[0].status_message = text[:2_000]
        trace.spans[0].span_type = text[:2_000]
        trace.spans[0].attributes = {"text": text, "number": float("nan"), text[:100]: float("inf")}
        trace.tags = {"text": text}
        found = self.printed(self.buried(tmp_path / "spool", otlp.encode(trace)))
        assert isinstance(found, dict)
        inputs = found["spans"][0]["inputs"]
        assert inputs == text or json.dumps(inputs) == text

    @pytest.mark.parametrize("cut", [0, 1, 7, 100])
    def test_is_printed_whatever_its_bytes_are(self, cut: int, tmp_path: Path) -> None:
        payload = otlp.encode(record(1))
        self.printed(self.buried(tmp_path / "spool", payload[:cut] + b"\xff" * cut + payload[2 * cut :]))


class TestRetry:
    def test_puts_it_back_among_what_waits(self, folder: Path) -> None:
        result = call("dead-letters", "retry", "tr-2", "--spool-dir", folder)
        assert result.exit_code == 0
        assert "1 trace put back" in result.stdout
        assert "No sender is running" in result.stderr
        assert dead(folder) == {"tr-1"}
        assert state(folder).waiting == 2

    def test_all(self, folder: Path) -> None:
        found = json.loads(call("dead-letters", "retry", "--all", "--spool-dir", folder, "--json").stdout)
        assert found == {"retried": 2, "keys": ["tr-1", "tr-2"]}
        assert (dead(folder), state(folder).waiting) == (set(), 3)

    def test_what_a_key_begins_with_is_enough_if_it_is_one(self, folder: Path) -> None:
        result = call("dead-letters", "retry", "tr-", "--spool-dir", folder)
        assert result.exit_code == 1
        assert "2 keys begin with 'tr-'" in result.stderr
        bury(folder, "no", 1)
        fill(folder, URI, 12)
        bury(folder, "no", 12)
        assert call("dead-letters", "retry", "tr-12", "tr-12", "--spool-dir", folder).exit_code == 0
        assert call("dead-letters", "retry", "tr-1", "--spool-dir", folder).exit_code == 0  # it is one itself
        assert not dead(folder) & {"tr-1", "tr-12"}
        assert {"tr-10", "tr-11"} <= dead(folder)

    def test_one_unknown_key_leaves_all_where_they_are(self, folder: Path) -> None:
        assert call("dead-letters", "retry", "tr-1", "nope", "--spool-dir", folder).exit_code == 1
        assert dead(folder) == {"tr-1", "tr-2"}

    @pytest.mark.parametrize("arguments", [(), ("--all", "tr-1")])
    @pytest.mark.parametrize("command", ["retry", "drop"])
    def test_either_keys_or_all_must_be_said(
        self, command: str, arguments: tuple[str, ...], folder: Path
    ) -> None:
        assert call("dead-letters", command, *arguments, "--spool-dir", folder).exit_code == 2
        assert dead(folder) == {"tr-1", "tr-2"}

    def test_thousands(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool", 2**40)
        where = Destination("http://h").to_text()
        spool.put([Item(f"tr-{n}", where, "p", b"") for n in range(1_100)])
        spool.close()
        bury(tmp_path / "spool", "no", 1_100)
        assert (
            "1100 traces" in call("dead-letters", "retry", "--all", "--spool-dir", tmp_path / "spool").stdout
        )


class TestDrop:
    def test_without_a_terminal_it_must_be_sure(self, folder: Path) -> None:
        result = call("dead-letters", "drop", "tr-1", "--spool-dir", folder)
        assert result.exit_code == 2
        assert "--yes" in result.stderr
        assert dead(folder) == {"tr-1", "tr-2"}

    def test_throws_away(self, folder: Path) -> None:
        result = call("dead-letters", "drop", "tr-1", "--yes", "--spool-dir", folder, "--json")
        assert json.loads(result.stdout) == {"dropped": 1, "keys": ["tr-1"]}
        assert (dead(folder), state(folder).waiting) == ({"tr-2"}, 1)

    @pytest.mark.parametrize(("answer", "left"), [(b"y\n", set()), (b"n\n", {"tr-1", "tr-2"})])
    def test_on_a_terminal_it_asks(self, answer: bytes, left: set[str], folder: Path) -> None:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, "dead-letters", "drop", "--all", "--spool-dir", str(folder)],
            cwd=ROOT, env=environment(), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.write(ours, answer)
        _, asked = process.communicate(timeout=60)
        assert b"Delete 2 traces permanently?" in asked
        assert process.returncode == (1 if left else 0)
        assert dead(folder) == left

    def test_of_nothing_nothing_is_asked(self, tmp_path: Path) -> None:
        result = call("dead-letters", "drop", "--all", "--spool-dir", tmp_path / "none")
        assert (result.exit_code, result.stdout) == (0, "0 traces dropped.\n")
