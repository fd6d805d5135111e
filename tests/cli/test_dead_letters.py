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
    def test_list_prints_key_age_size_name_destination_and_reason_of_dead_letters(self, folder: Path) -> None:
        output = call("dead-letters", "list", "--spool-dir", folder).stdout
        assert re.search(r"^tr-1  \d+ s ago  \d+ B  geography$", output, re.MULTILINE)
        assert "http://127.0.0.1:9 (experiment 'assistant')" in output
        assert "answered 400: \\x1b[2Jno good" in output
        assert "secret" not in output

    def test_list_prints_dead_letters_as_json(self, folder: Path) -> None:
        found = json.loads(call("dead-letters", "list", "--spool-dir", folder, "--json").stdout)
        assert [one["key"] for one in found] == ["tr-1", "tr-2"]
        assert (found[0]["name"], found[0]["experiment_name"]) == ("geography", "assistant")
        assert found[0]["destination"] == "http://127.0.0.1:9"
        assert found[0]["bytes"] == len(otlp.encode(record(1)))
        assert found[0]["created"] <= found[0]["died"]

    def test_list_prints_no_dead_letter_for_a_missing_spool(self, tmp_path: Path) -> None:
        result = call("dead-letters", "list", "--spool-dir", tmp_path / "none")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "No rejected traces" in result.stderr
        assert not (tmp_path / "none").exists()

    def test_list_and_show_print_a_dead_letter_that_is_not_a_trace(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool", 2**40)
        spool.put([Item("tr-odd", Destination("http://h").to_text(), "p", b"\xff\xff")])
        spool.close()
        bury(tmp_path / "spool", "not a trace")
        assert "(not readable)" in call("dead-letters", "list", "--spool-dir", tmp_path / "spool").stdout
        assert (
            "not a trace" in call("dead-letters", "show", "tr-odd", "--spool-dir", tmp_path / "spool").stdout
        )


class TestShow:
    def test_show_prints_the_spans_of_a_dead_letter_as_a_tree(self, folder: Path) -> None:
        lines = call("dead-letters", "show", "tr-1", "--spool-dir", folder).stdout.splitlines()
        assert "reason       answered 400: \\x1b[2Jno good" in lines
        assert "chain  CHAIN  ok  1.000 s, from 0.000 s" in lines
        assert '  in  {"messages": [{"role": "user", "content": "What?"}]}' in lines
        assert "  model  CHAT_MODEL  ok  1.000 s, from 0.000 s" in lines

    def test_show_prints_everything_of_a_dead_letter_as_json(self, folder: Path) -> None:
        found = json.loads(call("dead-letters", "show", "tr-1", "--spool-dir", folder, "--json").stdout)
        chain, model = found["spans"]
        assert (chain["inputs"]["messages"][0]["content"], chain["parent_id"]) == ("What?", None)
        assert model["parent_id"] == chain["span_id"]
        assert model["attributes"]["mlflow.chat.tokenUsage"]["total_tokens"] == 15

    def test_show_prints_the_latest_rejection_of_a_trace_that_was_rejected_twice(self, folder: Path) -> None:
        fill(folder, URI, 1, experiment="assistant")
        bury(folder, "worse", 9)
        found = json.loads(call("dead-letters", "show", "tr-1", "--spool-dir", folder, "--json").stdout)
        assert found["reason"] == "worse"

    def test_show_prints_long_inputs_and_errors_on_one_line_each(self) -> None:
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
    def test_show_exits_with_1_for_an_unknown_key_and_names_the_list_command(
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

    def test_a_dead_letter_is_printed_whatever_its_texts_are(self, text: str, tmp_path: Path) -> None:
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
    def test_a_dead_letter_is_printed_whatever_its_bytes_are(self, cut: int, tmp_path: Path) -> None:
        payload = otlp.encode(record(1))
        self.printed(self.buried(tmp_path / "spool", payload[:cut] + b"\xff" * cut + payload[2 * cut :]))


class TestRetry:
    def test_retry_puts_a_dead_letter_back_into_the_queue(self, folder: Path) -> None:
        result = call("dead-letters", "retry", "tr-2", "--spool-dir", folder)
        assert result.exit_code == 0
        assert "1 trace put back" in result.stdout
        assert "No sender is running" in result.stderr
        assert dead(folder) == {"tr-1"}
        assert state(folder).waiting == 2

    def test_retry_all_puts_every_dead_letter_back_into_the_queue(self, folder: Path) -> None:
        found = json.loads(call("dead-letters", "retry", "--all", "--spool-dir", folder, "--json").stdout)
        assert found == {"retried": 2, "keys": ["tr-1", "tr-2"]}
        assert (dead(folder), state(folder).waiting) == (set(), 3)

    def test_retry_accepts_the_beginning_of_a_key_if_it_is_unique(self, folder: Path) -> None:
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

    def test_retry_changes_nothing_if_one_key_is_unknown(self, folder: Path) -> None:
        assert call("dead-letters", "retry", "tr-1", "nope", "--spool-dir", folder).exit_code == 1
        assert dead(folder) == {"tr-1", "tr-2"}

    @pytest.mark.parametrize("arguments", [(), ("--all", "tr-1")])
    @pytest.mark.parametrize("command", ["retry", "drop"])
    def test_retry_and_drop_require_either_keys_or_all(
        self, command: str, arguments: tuple[str, ...], folder: Path
    ) -> None:
        assert call("dead-letters", command, *arguments, "--spool-dir", folder).exit_code == 2
        assert dead(folder) == {"tr-1", "tr-2"}

    def test_retry_all_works_for_more_than_a_thousand_dead_letters(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "spool", 2**40)
        where = Destination("http://h").to_text()
        spool.put([Item(f"tr-{n}", where, "p", b"") for n in range(1_100)])
        spool.close()
        bury(tmp_path / "spool", "no", 1_100)
        assert (
            "1100 traces" in call("dead-letters", "retry", "--all", "--spool-dir", tmp_path / "spool").stdout
        )


class TestDrop:
    def test_drop_requires_yes_if_there_is_no_terminal(self, folder: Path) -> None:
        result = call("dead-letters", "drop", "tr-1", "--spool-dir", folder)
        assert result.exit_code == 2
        assert "--yes" in result.stderr
        assert dead(folder) == {"tr-1", "tr-2"}

    def test_drop_deletes_a_dead_letter(self, folder: Path) -> None:
        result = call("dead-letters", "drop", "tr-1", "--yes", "--spool-dir", folder, "--json")
        assert json.loads(result.stdout) == {"dropped": 1, "keys": ["tr-1"]}
        assert (dead(folder), state(folder).waiting) == ({"tr-2"}, 1)

    @pytest.mark.parametrize(("answer", "left"), [(b"y\n", set()), (b"n\n", {"tr-1", "tr-2"})])
    def test_drop_asks_for_confirmation_on_a_terminal(
        self, answer: bytes, left: set[str], folder: Path
    ) -> None:
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

    def test_drop_does_not_ask_if_there_is_no_dead_letter(self, tmp_path: Path) -> None:
        result = call("dead-letters", "drop", "--all", "--spool-dir", tmp_path / "none")
        assert (result.exit_code, result.stdout) == (0, "0 traces dropped.\n")
