"""Stores files as artifacts of a trace: through the MLflow server, or directly in the artifact store."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote, urlsplit

from langchain_mlflow_tracer.core.errors import PermanentExportError, TransientExportError
from langchain_mlflow_tracer.delivery.exporter.answers import is_stored
from langchain_mlflow_tracer.delivery.exporter.http import READ_TIMEOUT, Connection, reason_of
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["is_folder", "place", "put", "remove", "send"]

LOCATION: Final = "mlflow.artifactLocation"
"""The tag with the place of the artifacts of a trace."""

SLOWEST: Final = 1_000_000
"""Bytes a second that a server writes to the store behind it, at least: the timeout grows with the file."""


def place(tags: Mapping[str, str]) -> str:
    """Return the place of the artifacts of a trace, from its tags."""
    if LOCATION not in tags:
        raise TransientExportError("MLflow's answer does not contain the place for the artifacts of a trace")
    return tags[LOCATION]


def send(connection: Connection, location: str, path: str, content: bytes) -> None:
    """Store a file: through the server if the place is an address of it, else directly in the place.

    Raises:
        TransientExportError: the file could not be stored now; it may be later.
        PermanentExportError: the file can never be stored.
    """
    folder = _folder(connection, location)
    if folder is None:
        put(connection.tracking_uri, location, path, content)
        return
    timeout = READ_TIMEOUT + len(content) / SLOWEST
    connection.request("PUT", f"{folder}/{path}", data=content, kind=is_stored, timeout=timeout)


def _folder(connection: Connection, location: str) -> str | None:
    """Return the path by which the server stores files in a place; None if it does not.

    An address of another server is refused: MLflow's own client would send our credentials there, and follow
    its redirects.
    """
    place = urlsplit(location)
    if place.scheme == "mlflow-artifacts":
        return f"/api/2.0/mlflow-artifacts/artifacts/{quote(place.path.strip('/'))}"
    if place.scheme not in {"http", "https"}:
        return None
    server = Destination(connection.tracking_uri).without_credentials().tracking_uri
    if not location.startswith(f"{server}/"):
        raise PermanentExportError(f"{_kind(location)} is another server than the tracking server")
    return quote(location.removeprefix(server).rstrip("/"), safe="/%")


def put(tracking_uri: str, location: str, path: str, content: bytes) -> None:
    """Store a file by MLflow's own client: in a folder, or in any kind of store that it knows.

    Raises:
        TransientExportError: the file could not be stored now; it may be later.
        PermanentExportError: the store can never be written to from here.
    """
    repository = _open(tracking_uri, location)
    name = PurePosixPath(path)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name.name
            file.write_bytes(content)
            repository.log_artifact(str(file), str(name.parent) if name.parent.name else None)
    except ImportError as error:
        raise PermanentExportError(f"{_kind(location)} needs a package: {error}") from error
    except Exception as error:  # the clients of the stores raise many kinds
        raise TransientExportError(f"{_kind(location)} does not accept a file: {reason_of(error)}") from error


def remove(tracking_uri: str, location: str, path: str) -> None:
    """Remove a file again."""
    _open(tracking_uri, location).delete_artifacts(path)


def is_folder(location: str) -> bool:
    """Whether a place is a folder of the machine that reads it, which may be another than this one."""
    return urlsplit(location).scheme in {"", "file"}


def _open(tracking_uri: str, location: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415

    try:
        return get_artifact_repository(location, tracking_uri)
    except Exception as error:  # a store of unknown kind, one whose package is missing, or a server's
        raise PermanentExportError(f"{_kind(location)} cannot be used: {reason_of(error)}") from error


def _kind(location: str) -> str:
    """Describe a store without its path or credentials."""
    return f"the artifact store ({urlsplit(location).scheme or 'a folder'})"
