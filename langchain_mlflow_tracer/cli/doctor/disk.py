"""Looks at the spool's folder, and at the disk that it is on."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.cli import units
from langchain_mlflow_tracer.cli.doctor.finding import Finding, failed, ok, warning
from langchain_mlflow_tracer.spool.spool import FILE

__all__ = ["folder", "made_in", "space", "writable"]

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

SCARCE: Final = 16 * 1024 * 1024
"""Bytes below which a disk is full: the write-ahead log alone may take half of it."""


def folder(spool: Path) -> Iterator[Finding]:
    """Whether the folder is there, ours, closed to others and writable."""
    if not spool.exists():
        yield _not_there(spool)
        return
    found = spool.stat()
    if not stat.S_ISDIR(found.st_mode):
        yield failed("spool folder", f"{spool} is a file", "Give another spool_dir.")
    elif hasattr(os, "getuid") and found.st_uid not in {os.getuid(), 0}:
        yield failed(
            "spool folder", f"{spool} belongs to user {found.st_uid}, this is user {os.getuid()}",
            "Run this, and every forwarder, as the user that the application runs as.",
        )  # fmt: skip
    elif not writable(spool):
        yield failed("spool folder", f"{spool} cannot be written to", f"{_READ_ONLY} or: chmod 700 {spool}")
    elif found.st_mode & OTHERS:
        yield warning(
            "spool folder", f"{spool} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            f"chmod 700 {spool}",
        )  # fmt: skip
    else:
        yield ok("spool folder", f"{spool} is there, for its owner alone")


def _not_there(spool: Path) -> Finding:
    where = made_in(spool)
    if not writable(where):
        return failed(
            "spool folder", f"{spool} is not there, and {where} cannot be written to", f"{_READ_ONLY} "
            "Or give another spool_dir.",
        )  # fmt: skip
    return warning(
        "spool folder", f"{spool} is not there yet: the first trace makes it",
        "If there should be traces: is this the application's user, and its spool_dir?",
    )  # fmt: skip


_READ_ONLY: Final = "Let this user write there, and see that the disk is not mounted read-only."


def space(spool: Path, max_bytes: int) -> Iterator[Finding]:
    """Whether the spool may grow to `max_bytes` on its disk."""
    where = made_in(spool)
    free = shutil.disk_usage(where).free
    used = sum(file.stat().st_size for file in spool.glob(f"{FILE}*")) if spool.is_dir() else 0
    told = f"{units.size(free)} free; the spool has {units.size(used)} and may have {units.size(max_bytes)}"
    if free < SCARCE:
        yield failed("disk", told, f"Make room on the disk of {where}.")
    elif free < max_bytes - used:
        yield warning("disk", told, "Make room, or set spool_max_bytes to what there is.")
    else:
        yield ok("disk", told)


def made_in(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that is there: what is missing would be made in it."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def writable(path: Path) -> bool:
    """Whether this user may write there, on a disk that may be written to; nothing is written."""
    return os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))
