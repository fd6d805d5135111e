"""Runs the torture for a moment, always the same one; `python -m tests.support.torture` is the long form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kept import KeptTrace
from tests.support.torture import Journal, violations

ROOT = Path(__file__).resolve().parents[2]

KILLS = 60

WHOLE = ("completed",) * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_processes_killed_at_random_lines_lose_no_trace_that_they_promised_to_keep() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.torture", "--kills", str(KILLS), "--real", "0", "--seed", "7"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = {what: int(count) for count, what in re.findall(r"^ +(\d+)  (.+)$", ended.stdout, re.MULTILINE)}
    at = ("encoding/writer", "spool/spool", "spool/database", "delivery/lane")
    assert sum(counts.get(module, 0) for module in at) >= KILLS // 4
    assert counts["traces promised"] > KILLS
    assert counts["traces cut off"] > 0


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "1 lost, 0 dropped"),
        ([KeptTrace("tr-1", "a", "OK", WHOLE), KeptTrace("tr-2", "a", "OK", WHOLE)], "a arrived as 2 traces"),
        ([KeptTrace("tr-1", "a", "OK", WHOLE), KeptTrace("tr-2", "x", "OK", WHOLE)], "x arrived as 1 traces"),
        ([KeptTrace("tr-1", "a", "OK", WHOLE[1:])], "not whole"),
        ([KeptTrace("tr-1", "a", "OK", ("running", "completed"))], "not whole"),
        ([KeptTrace("tr-1", "a", "IN_PROGRESS", ("running", "completed"))], "1 lost"),
        ([KeptTrace("tr-1", "a", "ERROR", ("cut_off", "completed"))], "1 lost"),
    ],
)
def test_the_torture_test_reports_traces_that_are_lost_stored_twice_or_incomplete(
    found: list[KeptTrace], said: str
) -> None:
    (first, *_) = violations(Journal(began={"a"}, promised={"a"}), found, dropped=0)
    assert said in first


def test_the_torture_test_accepts_traces_that_are_complete_cut_off_or_counted_as_dropped() -> None:
    found = [KeptTrace("tr-1", "a", "OK", WHOLE), KeptTrace("tr-2", "b", "ERROR", ("cut_off", "completed"))]
    journal = Journal(began={"a", "b", "c"}, promised={"a", "c"})
    assert list(violations(journal, found, dropped=1)) == []
