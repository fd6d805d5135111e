"""Checks the folder of the spool, and its disk."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.cli import units
from langchain_mlflow_tracer.cli.doctor.finding import Finding, failed, ok, warning
from langchain_mlflow_tracer.settings.spool_folder import is_foreign, user_id
from langchain_mlflow_tracer.spool.spool import FILE

__all__ = ["folder", "made_in", "space", "writable"]

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

SCARCE: Final = 16 * 1024 * 1024
"""Free bytes below which a disk counts as full: the write-ahead log alone may need half of them."""


def folder(spool: Path) -> Iterator[Finding]:
    """Whether the folder exists, belongs to this user, is closed to others and writable."""
    if not spool.exists():
        yield _not_there(spool)
        return
    status = spool.stat()
    if not stat.S_ISDIR(status.st_mode):
        yield failed("spool folder", f"{spool} is a file", "Set spool_dir to a folder.")
    elif is_foreign(spool):
        yield failed(
            "spool folder", f"{spool} belongs to user {status.st_uid}, but this is user {user_id()}",
            "Run this command, and every sender, as the user of the application.",
        )  # fmt: skip
    elif not writable(spool):
        yield failed("spool folder", f"{spool} is not writable", f"{_READ_ONLY} Or run: chmod 700 {spool}")
    elif status.st_mode & OTHERS:
        yield warning(
            "spool folder", f"other users can open {spool} (mode {stat.S_IMODE(status.st_mode):04o})",
            f"Run: chmod 700 {spool}",
        )  # fmt: skip
    else:
        yield ok("spool folder", f"{spool} exists, only its owner can open it")


def _not_there(spool: Path) -> Finding:
    where = made_in(spool)
    if not writable(where):
        return failed(
            "spool folder", f"{spool} does not exist, and {where} is not writable",
            f"{_READ_ONLY} Or set spool_dir to another folder.",
        )  # fmt: skip
    return warning(
        "spool folder", f"{spool} does not exist yet: the first trace creates it",
        "If you expect traces, run this command as the application's user, with its spool_dir.",
    )  # fmt: skip


_READ_ONLY: Final = "Give this user write permission, and check that the disk is not mounted read-only."


def space(spool: Path, max_bytes: int) -> Iterator[Finding]:
    """Whether the disk has space for a spool of `max_bytes`."""
    where = made_in(spool)
    free = shutil.disk_usage(where).free
    used = sum(file.stat().st_size for file in spool.glob(f"{FILE}*")) if spool.is_dir() else 0
    text = f"{units.size(free)} free; the spool has {units.size(used)} of {units.size(max_bytes)}"
    if free < SCARCE:
        yield failed("disk", text, f"Free space on the disk of {where}.")
    elif free < max_bytes - used:
        yield warning("disk", text, "Free space, or set spool_max_bytes to a smaller number.")
    else:
        yield ok("disk", text)


def made_in(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists: missing folders are created in it."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def writable(path: Path) -> bool:
    """Whether this user can write there, as far as can be known without writing."""
    return os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))
