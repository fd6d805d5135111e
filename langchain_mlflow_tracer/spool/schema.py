"""Creates the tables of a spool, checks whose file it is, and rescues the items of a lost file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.spool.database import Execute

__all__ = ["APPLICATION", "INSERT", "INSERT_NEW", "SCHEMA_VERSION", "check", "rescue", "set_up"]

SCHEMA_VERSION: Final = 2
"""The version of the tables below, which SQLite stores in the file."""
APPLICATION: Final = 0x4C4D5450
"""SQLite's mark of the program that a file belongs to: "LMTP"."""

_TABLES: Final = (
    # AUTOINCREMENT: no id is used twice, so an old lease cannot acknowledge a newer item.
    """CREATE TABLE IF NOT EXISTS items (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        destination TEXT NOT NULL,
        producer TEXT NOT NULL,
        created REAL NOT NULL,
        size INTEGER NOT NULL,
        payload BLOB NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS items_by_destination ON items (destination, id)",
    "CREATE INDEX IF NOT EXISTS items_by_producer ON items (producer, id)",
    """CREATE TABLE IF NOT EXISTS dead_letters (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        destination TEXT NOT NULL,
        producer TEXT NOT NULL,
        created REAL NOT NULL,
        died REAL NOT NULL,
        reason TEXT NOT NULL,
        payload BLOB NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS failures (
        destination TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        since REAL NOT NULL,
        latest REAL NOT NULL,
        attempts INTEGER NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS running (
        key TEXT PRIMARY KEY,
        destination TEXT NOT NULL,
        producer TEXT NOT NULL,
        version INTEGER NOT NULL,
        shown INTEGER NOT NULL DEFAULT 0,
        payload BLOB NOT NULL
    )""",
    """CREATE TRIGGER IF NOT EXISTS finished AFTER INSERT ON items BEGIN
        DELETE FROM running WHERE key = NEW.key;
    END""",
    "CREATE TABLE IF NOT EXISTS losses (producer TEXT PRIMARY KEY, count INTEGER NOT NULL)",
    # Ids of a new file start at a random number: a lease of a deleted file matches no item of the new one.
    """INSERT INTO sqlite_sequence SELECT 'items', abs(random()) >> 16
        WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'items')""",
)

INSERT: Final = "INSERT OR REPLACE INTO items (key, destination, producer, created, size, payload)"
"""Inserts an item, and replaces the one with its key."""
INSERT_NEW: Final = INSERT.replace("REPLACE", "IGNORE")
"""Inserts an item, unless there is one with its key."""


def check(execute: Execute, file: Path) -> None:
    """Check that `file` is a spool that this release can use; it is not changed.

    Raises:
        SpoolError: it was written by a newer release, or by another program.
    """
    version, application = _version(execute)
    if version > SCHEMA_VERSION and application in {0, APPLICATION}:
        raise SpoolError(
            f"the spool in {file.parent} was written by a newer release (schema {version}, this one"
            f" knows {SCHEMA_VERSION}): upgrade langchain-mlflow-tracer, or give another spool_dir"
        )
    tables = {row[0] for row in execute("SELECT name FROM sqlite_master")}
    is_of_the_first = version == 1 and "items" in tables
    if tables and application != APPLICATION and not is_of_the_first:
        raise SpoolError(f"{file} is a database of another program: give another spool_dir")


def set_up(execute: Execute) -> None:
    """Create missing tables, in one transaction."""
    if _version(execute) == (SCHEMA_VERSION, APPLICATION):
        return
    execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        execute(statement)
    execute(f"PRAGMA application_id = {APPLICATION}")
    execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    execute("COMMIT")


def _version(execute: Execute) -> tuple[int, int]:
    """Return the version of the schema, and the mark of the program."""
    version, application = execute("PRAGMA user_version"), execute("PRAGMA application_id")
    return version.fetchone()[0], application.fetchone()[0]


def rescue(lost: Execute, new: Execute) -> int:
    """Copy the readable items of a lost file into a new one; return how many."""
    copied = 0
    new("BEGIN IMMEDIATE")
    try:
        for row in lost("SELECT key, destination, producer, created, size, payload FROM items ORDER BY id"):
            new(f"{INSERT_NEW} VALUES (?, ?, ?, ?, ?, ?)", row)
            copied += 1
    except sqlite3.Error:
        pass  # the rest is not readable
    new("COMMIT")
    return copied
