"""Checks an MLflow database that traces are written to directly: read-only, and without creating one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from langchain_mlflow_tracer.cli.doctor.disk import made_in, writable
from langchain_mlflow_tracer.cli.doctor.experiment import missing, present
from langchain_mlflow_tracer.cli.doctor.file import read_only
from langchain_mlflow_tracer.cli.doctor.finding import Finding, Outcome, checked, failed, ok, warning
from langchain_mlflow_tracer.delivery.exporter.entities import DEFAULT_EXPERIMENT
from langchain_mlflow_tracer.mlflow_private import Gone, store
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.installed_mlflow import INSTALL, NO_DATABASES, opens_databases

__all__ = ["look"]


def look(destination: Destination) -> Iterator[Finding]:
    """Yield the findings about the database, and about the experiment in it."""
    about = str(destination)
    if not opens_databases():
        yield from checked("database", lambda: [failed("database", NO_DATABASES, INSTALL)], about)
        return
    file = _file(destination)
    if file is None:
        found = warning(
            "database", "it is in memory, and lost when the sender ends", "Use a file, or a server."
        )
        yield from checked("database", lambda: [found], about)
        return
    found_of_file = checked("database", partial(_database, file), about)
    yield from found_of_file
    if found_of_file[-1].outcome is Outcome.OK and file.exists():
        yield from checked("experiment", partial(_experiment, file, destination), about)


def _file(destination: Destination) -> Path | None:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - mlflow brings it

    named = make_url(destination.tracking_uri).database
    return None if named in {None, "", ":memory:"} else Path(str(named))


def _database(file: Path) -> Iterator[Finding]:
    where = made_in(file if file.exists() else file.parent)
    if not (writable(where) and writable(made_in(file.parent))):
        yield failed(
            "database",
            f"{where} is not writable",
            "Give the user of the sender write permission for the file and its folder.",
        )
    elif not file.exists():
        yield ok("database", f"{file} does not exist: the first trace creates it, in some seconds")
    else:
        yield _schema(file)


def _schema(file: Path) -> Finding:
    try:
        known = store.revision()
        with read_only(file) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            found = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone()
                if _MARK in tables
                else None
            )
    except Gone as gone:
        return warning("database", f"mlflow has changed ({gone})", "Its schema is not checked.")
    except sqlite3.Error as error:
        return failed("database", f"{file} cannot be read: {error}", "Use the file of an MLflow database.")
    if tables and found is None:
        return warning(
            "database",
            f"{file} is not an MLflow database; its tables would be created in it",
            "Use another file.",
        )
    if found is not None and found[0] != known:
        return failed(
            "database", f"its schema is {found[0]}, but the mlflow installed here has {known}",
            f"Copy it, then run: mlflow db upgrade sqlite:///{file}. Or install the mlflow that wrote it.",
        )  # fmt: skip
    return ok("database", f"{file} opens, and has schema {known}" if found else f"{file} is empty")


_MARK = "alembic_version"


def _experiment(file: Path, destination: Destination) -> Iterator[Finding]:
    with read_only(file) as connection:
        known = connection.execute("SELECT experiment_id, name, lifecycle_stage FROM experiments").fetchall()
    wanted = destination.experiment_name, destination.experiment_id or DEFAULT_EXPERIMENT
    for identity, name, stage in known:
        if wanted[0] == name if wanted[0] is not None else wanted[1] == str(identity):
            yield present(str(identity), deleted=stage == "deleted")
            return
    yield missing(destination)
