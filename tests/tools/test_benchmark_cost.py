from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cost import crew, report
from benchmarks.cost.figures import added, quantile
from benchmarks.cost.rows import ROWS
from benchmarks.cost.run import Measured

PROJECT = Path(__file__).resolve().parents[2]


def one(mine: float, row: str = "invoke, p50", delivered: int = 1) -> Measured:
    figures = {
        "untraced": added([100.0], [100.0]),
        "tracer": added([mine], [100.0]),
        "langfuse": added([900.0], [100.0]),
    }
    chosen = next(each for each in ROWS if each.name == row)
    arrived = {name: {"requests": delivered, "bytes": delivered} for name in figures}
    return Measured(chosen, figures, arrived)


def test_added_time_is_the_difference_to_the_untraced_round_beside_it() -> None:
    found = added([110.0, 220.0, 330.0], [100.0, 200.0, 300.0])
    assert (found.value, found.more, found.low, found.high) == (220.0, 20.0, 10.0, 30.0)
    assert found.ratio == pytest.approx(1.1)


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 1.0) == 3.0


def test_a_row_is_within_its_bound_or_exceeds_it() -> None:
    assert one(180.0).is_within
    assert not one(181.0).is_within


def test_throughput_is_bounded_by_the_share_that_remains() -> None:
    assert one(111.0, "50 concurrent chains").is_within
    assert not one(112.0, "50 concurrent chains").is_within


def test_a_row_without_a_bound_has_no_verdict() -> None:
    free = one(9000.0)
    free = replace(free, row=replace(free.row, bound=math.inf))
    assert free.is_within
    assert report.cells(free)[-2:] == ("-", "")


def test_a_peer_that_sent_nothing_is_not_the_best() -> None:
    assert report.cells(one(150.0))[3] == "800 langfuse"
    assert report.cells(one(150.0, delivered=0))[3] == "-"
    assert "nothing arrived" in report.markdown([one(150.0, delivered=0)], "today")


def test_the_command_replaces_the_table_in_its_document(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    for text in ("new", "newer"):
        report.write_into(document, text)
    assert document.read_text("utf-8") == f"before\n{report.BEGIN}\n\nnewer\n\n{report.END}\nafter\n"


def test_a_document_without_a_place_for_the_table_is_not_changed(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("mine", "utf-8")
    with pytest.raises(ValueError, match="has no lines"):
        report.write_into(document, "new")
    assert document.read_text("utf-8") == "mine"


def test_the_command_measures_rows_and_the_traces_they_send(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    rows = ["--only", "invoke of 200 kB", "import"]
    asked = ["--peers", "none", "--quick", "--here", *rows, "--json", str(figures)]
    command = [sys.executable, "-m", "benchmarks.cost", *asked]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode in {0, 1}, ended.stderr  # a busy machine may be over a bound
    assert "untraced" in ended.stdout
    invoked, imported = json.loads(figures.read_text("utf-8"))
    assert invoked["delivered"]["tracer"]["bytes"] > 40 * 200_000
    assert invoked["delivered"]["untraced"] == {}
    assert set(imported["figures"]) == {"untraced", "empty", "tracer"}
    assert imported["figures"]["tracer"]["more"] > 1


def test_an_unknown_row_is_an_error_that_lists_the_rows() -> None:
    command = [sys.executable, "-m", "benchmarks.cost", "--only", "nonsense"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "invoke, p50" in ended.stderr


def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PATIENCE", 0.2)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        member = crew.Member("langfuse", "http://127.0.0.1:1", process)
        with pytest.raises(RuntimeError, match=r"langfuse hangs: it has not answered 'flush'"):
            member.told("flush")
        assert process.wait(30) != 0
