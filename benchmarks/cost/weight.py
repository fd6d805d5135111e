"""Reads the CPU and memory of processes from Linux's /proc."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["cpu", "resident", "session_with"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds."""


def _stat(process: Path) -> list[str]:
    """Return the fields after the command's name, from the state on; empty if the process has ended."""
    with contextlib.suppress(OSError):
        return (process / "stat").read_text().rpartition(")")[2].split()
    return []


def cpu(session: int) -> float:
    """Return the CPU seconds of all processes of a session, including those that have ended."""
    stats = (_stat(process) for process in Path("/proc").glob("[0-9]*"))
    return sum(sum(map(int, stat[11:15])) for stat in stats if stat and int(stat[3]) == session) * _TICK


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def session_with(word: str) -> int:
    """Return the session of the process with `word` among its arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                return int(_stat(process)[3])
    raise LookupError(word)
