"""Checks the file of the spool, read-only: a damaged file, or one of another program, must not change."""

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
"""Bytes up to which every page is read, which takes a second or two on a slow disk."""

BUSY: Final = 1.0
"""Seconds to wait for a process that writes."""


def look(folder: Path) -> Iterator[Finding]:
    """Whether the file opens, is a spool of this release, and is not damaged."""
    yield from _put_aside(folder)
    if not Spool.exists(folder):
        yield ok("spool file", "it does not exist yet: the first trace creates it")
        return
    file = folder / FILE
    try:
        with read_only(file) as connection:
            yield from _schema(connection, file)
            yield from _integrity(connection, file)
    except sqlite3.Error as error:
        yield failed("spool file", f"{file} cannot be read: {error}", _DAMAGED)
    if file.stat().st_mode & OTHERS:
        yield warning("spool file", f"other users can read {file}", f"Run: chmod 600 {file}")


_DAMAGED: Final = (
    "Keep a copy. A tracer, or `langchain-mlflow-tracer forward --watch`, renames a damaged file and keeps"
    " every trace that can be read from it."
)


@contextlib.contextmanager
def read_only(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that exists, read-only."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)
    try:
        yield connection
    finally:
        connection.close()


def _schema(connection: sqlite3.Connection, file: Path) -> Iterator[Finding]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION and tables and not (application == 0 and version >= 1):
        yield failed(
            "spool file", f"{file} is a database of another program", "Set spool_dir to another folder."
        )
    elif version > SCHEMA_VERSION:
        yield failed(
            "spool file", f"a newer release has written it (schema {version}, here {SCHEMA_VERSION})",
            "Upgrade langchain-mlflow-tracer here, or set spool_dir to another folder.",
        )  # fmt: skip
    elif version < SCHEMA_VERSION:
        yield warning(
            "spool file", f"an older release has written it (schema {version}, here {SCHEMA_VERSION})",
            "Do nothing: the next tracer, or `langchain-mlflow-tracer forward`, updates it.",
        )  # fmt: skip
    else:
        yield ok("spool file", f"it opens, and has schema {version}")


def _integrity(connection: sqlite3.Connection, file: Path) -> Iterator[Finding]:
    size = file.stat().st_size
    if size > SMALL:
        yield ok("integrity", f"not checked: {units.size(size)} take too long")
        return
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict == "ok":
        yield ok("integrity", "no page is damaged")
    else:
        yield failed("integrity", f"{file} is damaged: {verdict}", _DAMAGED)


def _put_aside(folder: Path) -> Iterator[Finding]:
    aside = folder / f"{FILE}.damaged"
    if aside.exists():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(aside.stat().st_mtime))
        yield warning(
            "spool file", f"a file was damaged at {when}, and is kept as {aside.name}",
            "Check the disk (full, failing, a network file system?), and delete that file.",
        )  # fmt: skip
