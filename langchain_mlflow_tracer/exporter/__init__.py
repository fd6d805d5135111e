"""Sends encoded traces to where they belong: one file for each kind of destination.

mlflow is imported in these files only, and only when something is sent: never on a caller's thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

from langchain_mlflow_tracer.destination import Destination

__all__ = ["Exporter", "make"]


class Exporter(Protocol):
    """Anything that takes encoded traces (see `codec`) and keeps them, each once however often it is sent."""

    def export(self, payloads: Sequence[bytes]) -> None:
        """Store all of `payloads`, or none.

        Raises:
            TransientExportError: not this time.
            PermanentExportError: never, as they are: one of them is not acceptable.
        """

    def show(self, payloads: Sequence[bytes]) -> None:
        """Let traces that run be seen as they stand, where the destination can tell them from ended ones.

        Raises:
            TransientExportError: not this time.
            PermanentExportError: never, as they are.
        """


def make(destination: Destination) -> Exporter:
    """Return the exporter for `destination`; nothing is connected before its first export.

    mlflow is imported here, which takes a second or two: by the one thread that makes exporters, because
    threads that import it at the same time may each get half of it (seen with mlflow 3.17 on Python 3.11).
    """
    for name in ("mlflow.tracking", "mlflow.utils.rest_utils"):
        importlib.import_module(name)
    if destination.is_server:
        from langchain_mlflow_tracer.exporter.server import ServerExporter  # noqa: PLC0415 - only what is used

        return ServerExporter(destination)
    from langchain_mlflow_tracer.exporter.embedded import EmbeddedExporter  # noqa: PLC0415 - only what is used

    return EmbeddedExporter(destination)
