"""Sends encoded traces to their destination: one file for each kind of destination.

mlflow is imported in these files only, and only when something is sent: never on a caller's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["Exporter", "make"]


class Exporter(Protocol):
    """Stores encoded traces (see `encoding.otlp`), each once, however often it is sent."""

    def export(self, payloads: Sequence[bytes]) -> None:
        """Store all of `payloads`, or none.

        Raises:
            TransientExportError: the destination did not store them now; it may later.
            PermanentExportError: the destination will never accept one of them.
        """

    def show(self, payloads: Sequence[bytes]) -> None:
        """Show running traces as they are now, if the destination can distinguish them from ended ones.

        Raises:
            TransientExportError: the destination did not store them now; it may later.
            PermanentExportError: the destination will never accept one of them.
        """


def make(destination: Destination, log: Log) -> Exporter:
    """Return the exporter for `destination`; it imports and connects nothing before its first export."""
    if destination.is_server:
        from langchain_mlflow_tracer.delivery.exporter.server import ServerExporter  # noqa: PLC0415 - only what is used

        return ServerExporter(destination, log)
    from langchain_mlflow_tracer.delivery.exporter.embedded import EmbeddedExporter  # noqa: PLC0415 - only what is used

    return EmbeddedExporter(destination, log)
