"""Checks an MLflow database that traces are written to directly: read-only, and without creating one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.cli.doctor.disk import made_in, writable
from langchain_mlflow_tracer.cli.doctor.experiment import missing, present
from langchain_mlflow_tracer.cli.doctor.file import read_only
from langchain_mlflow_tracer.cli.doctor.finding import Finding, Outcome, checked, failed, ok, warning
from langchain_mlflow_tracer.delivery.exporter.entities import DEFAULT_EXPERIMENT
from langchain_mlflow_tracer.mlflow_private import Gone, store
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.installed_mlflow import INSTALL, NO_DATABASES, opens_databases

__all__ = ["look"]

_BY_ID: Final = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE experiment_id = ?"
_BY_NAME: Final = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"


def look(destination: Destination) -> Iterator[Finding]:
    """Yield the findings about the database, and about the experiment in it."""
    about = str(destination)
    file = _file(destination) if opens_databases() else None
    findings = checked("database", lambda: [_database(file)], about)
    yield from findings
    if file is not None and file.exists() and findings[-1].outcome is Outcome.OK:
        yield from checked("experiment", partial(_experiment, file, destination), about)


def _file(destination: Destination) -> Path | None:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - mlflow brings it

    named = make_url(destination.tracking_uri).database
    return None if named in {None, "", ":memory:"} else Path(str(named))


def _database(file: Path | None) -> Finding:
    if not opens_databases():
        return failed("database", NO_DATABASES, INSTALL)
    if file is None:
        return warning(
            "database", "it is in memory, and lost when the sender ends", "Use a file, or a server."
        )
    where = made_in(file if file.exists() else file.parent)
    if not (writable(where) and writable(made_in(file.parent))):
        return failed(
            "database",
            f"{where} is not writable",
            "Give the user of the sender write permission for the file and its folder.",
        )
    if not file.exists():
        return ok("database", f"{file} does not exist: the first trace creates it, in some seconds")
    return _schema(file)


def _schema(file: Path) -> Finding:
    try:
        known = store.revision()
        tables, revision = _tables_and_revision(file)
    except Gone as gone:
        text = f"this mlflow version is not supported ({gone})"
        return warning("database", text, "Its schema is not checked.")
    except sqlite3.Error as error:
        return failed("database", f"{file} cannot be read: {error}", "Use the file of an MLflow database.")
    if tables and revision is None:
        return warning(
            "database",
            f"{file} is not an MLflow database; its tables would be created in it",
            "Use another file.",
        )
    if revision not in {None, known}:
        return failed(
            "database", f"its schema is {revision}, but the mlflow installed here has {known}",
            f"Copy it, then run: mlflow db upgrade sqlite:///{file}. Or install the mlflow that wrote it.",
        )  # fmt: skip
    return ok("database", f"{file} opens, and has schema {known}" if tables else f"{file} is empty")


def _tables_and_revision(file: Path) -> tuple[int, str | None]:
    """Return the number of tables in a file, and the revision of MLflow's schema; None if it has none."""
    with read_only(file) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        if "alembic_version" not in tables:
            return len(tables), None
        (revision,) = connection.execute("SELECT max(version_num) FROM alembic_version").fetchone()
        return len(tables), revision


def _experiment(file: Path, destination: Destination) -> Iterator[Finding]:
    name, identity = destination.experiment_name, destination.experiment_id or DEFAULT_EXPERIMENT
    statement, value = (_BY_ID, identity) if name is None else (_BY_NAME, name)
    with read_only(file) as connection:
        row = connection.execute(statement, (value,)).fetchone()
    yield missing(destination) if row is None else present(str(row[0]), deleted=row[1] == "deleted")
