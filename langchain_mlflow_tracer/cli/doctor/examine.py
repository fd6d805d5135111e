"""Runs the checks of `doctor`, one after the other.

They change nothing: nothing is created, repaired or stored. Each has a time limit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from langchain_mlflow_tracer.cli.doctor import client, disk, file, queue, server, store
from langchain_mlflow_tracer.cli.doctor.finding import Finding, Outcome, bounded, checked, failed, ok
from langchain_mlflow_tracer.core.errors import ConfigurationError, SpoolError
from langchain_mlflow_tracer.settings.child_process import full_uris
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.installed_mlflow import INSTALL, NO_DATABASES, opens_databases
from langchain_mlflow_tracer.settings.settings import named_destination, spool_max_bytes_of_environment

__all__ = ["Finding", "Outcome", "examine"]


def examine(
    folder: Path, tracking_uri: str | None = None, experiment: str | None = None
) -> Iterator[Finding]:
    """Yield the findings about the spool in `folder`, and about each destination in it or in the settings."""
    named: list[Destination] = []
    uris: dict[str, str] = {}
    max_bytes = 0
    try:
        max_bytes = spool_max_bytes_of_environment()
        uris = full_uris()
        if (destination := named_destination(tracking_uri, experiment)) is not None:
            named = [destination]
            uris |= _uri_with_credentials(destination)
    except ConfigurationError as error:
        yield failed("settings", str(error), "Correct this variable or option.")
    yield from _spool(folder, max_bytes)
    destinations = _destinations(folder, named)
    if not destinations:
        yield _no_destination()
        return
    yield from checked("client", client.look, seconds=client.IMPORT)
    for destination in destinations:
        yield from _destination(destination, uris)


def _uri_with_credentials(destination: Destination) -> dict[str, str]:
    """Return the tracking URI by the one without credentials; nothing if it has none."""
    if not destination.has_credentials:
        return {}
    return {destination.without_credentials().tracking_uri: destination.tracking_uri}


def _no_destination() -> Finding:
    if not opens_databases():
        return failed(
            "destination", f"none is configured; {NO_DATABASES}", f"Set MLFLOW_TRACKING_URI, or {INSTALL}"
        )
    return ok(
        "destination", "none is configured: a tracer uses the database mlflow.db in its current folder",
        "Set MLFLOW_TRACKING_URI if traces must go elsewhere.",
    )  # fmt: skip


def _spool(folder: Path, max_bytes: int) -> Iterator[Finding]:
    """Check the folder, its disk, its file, and the pending traces; stop at the first that failed."""
    for check, look in (
        ("spool folder", partial(disk.folder, folder)),
        ("disk", partial(disk.space, folder, max_bytes)),
        ("spool file", partial(file.look, folder)),
        ("queue", partial(queue.look, folder)),
    ):
        findings = checked(check, look)
        yield from findings
        if any(finding.outcome is Outcome.FAILED for finding in findings):
            return


def _destinations(folder: Path, named: list[Destination]) -> list[Destination]:
    """Return the destinations that are named, and those of pending traces, each once."""
    try:
        pending = bounded(partial(queue.destinations, folder))
    except (SpoolError, sqlite3.Error, OSError):  # an earlier check has reported it
        pending = []
    return list({destination.to_text(): destination for destination in [*pending, *named]}.values())


def _destination(destination: Destination, uris: Mapping[str, str]) -> Iterator[Finding]:
    whole = destination.with_credentials(uris)
    return server.look(whole) if destination.is_server else store.look(whole)
