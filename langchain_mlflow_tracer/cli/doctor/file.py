"""Looks at the spool's file, read-only: what is damaged or foreign must stay as it is."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.cli import units
from langchain_mlflow_tracer.cli.doctor.disk import OTHERS
from langchain_mlflow_tracer.cli.doctor.finding import Finding, failed, ok, warning
from langchain_mlflow_tracer.spool.schema import APPLICATION, SCHEMA_VERSION
from langchain_mlflow_tracer.spool.spool import FILE, Spool

__all__ = ["look", "read_only"]

SMALL: Final = 64 * 1024 * 1024
"""Bytes up to which every page is read: a second or two on a slow disk."""

BUSY: Final = 1.0
"""Seconds to wait for somebody who writes."""


def look(folder: Path) -> Iterator[Finding]:
    """Whether the file opens, is a spool of this release's, and is sound."""
    yield from _put_aside(folder)
    if not Spool.exists(folder):
        yield ok("spool file", "there is none yet: the first trace makes it")
        return
    file = folder / FILE
    try:
        with read_only(file) as connection:
            yield from _schema(connection, file)
            yield from _integrity(connection, file)
    except sqlite3.Error as error:
        yield failed("spool file", f"{file} cannot be read: {error}", _DAMAGED)
    if file.stat().st_mode & OTHERS:
        yield warning("spool file", f"{file} can be read by others", f"chmod 600 {file}")


_DAMAGED: Final = (
    "Keep a copy. A tracer or `langchain-mlflow-tracer forward --watch` puts a damaged file aside, and saves"
    " what can still be read."
)


@contextlib.contextmanager
def read_only(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that is there, without the right to change it."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)
    try:
        yield connection
    finally:
        connection.close()


def _schema(connection: sqlite3.Connection, file: Path) -> Iterator[Finding]:
    (application,), (version,), (tables,) = (
        connection.execute(statement).fetchone()
        for statement in (
            "PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master",
        )
    )  # fmt: skip
    if application != APPLICATION and tables and not (application == 0 and version >= 1):
        yield failed("spool file", f"{file} is a database of another program", "Give another spool_dir.")
    elif version > SCHEMA_VERSION:
        yield failed(
            "spool file", f"it was written by a newer release (schema {version}, here {SCHEMA_VERSION})",
            "Upgrade langchain-mlflow-tracer here, or give another spool_dir.",
        )  # fmt: skip
    elif version < SCHEMA_VERSION:
        yield warning(
            "spool file", f"it is of an older release (schema {version}, here {SCHEMA_VERSION})",
            "Nothing to do: the next tracer or `langchain-mlflow-tracer forward` brings it up to date.",
        )  # fmt: skip
    else:
        yield ok("spool file", f"it opens, its schema is {version}")


def _integrity(connection: sqlite3.Connection, file: Path) -> Iterator[Finding]:
    size = file.stat().st_size
    if size > SMALL:
        yield ok("integrity", f"not looked at: {units.size(size)} take too long")
        return
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict == "ok":
        yield ok("integrity", "every page is sound")
    else:
        yield failed("integrity", f"{file} is damaged: {verdict}", _DAMAGED)


def _put_aside(folder: Path) -> Iterator[Finding]:
    aside = folder / f"{FILE}.damaged"
    if aside.exists():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(aside.stat().st_mtime))
        yield warning(
            "spool file", f"a file that was damaged at {when} lies aside as {aside.name}",
            "See what the disk had then (full, failing, a network file system?), and delete the file.",
        )  # fmt: skip
