"""Sends encoded traces to where they belong: one file for each kind of destination.

mlflow is imported in these files only, and only when something is sent: never on a caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from langchain_mlflow_tracer.settings.destination import Destination

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


def make(destination: Destination, tell: Callable[[str], None] = lambda _said: None) -> Exporter:
    """Return the exporter for `destination`; nothing is imported or connected before its first export.

    `tell` hears, in a sentence, of what takes long before it has failed.
    """
    if destination.is_server:
        from langchain_mlflow_tracer.delivery.exporter.server import ServerExporter  # noqa: PLC0415 - only what is used

        return ServerExporter(destination, tell)
    from langchain_mlflow_tracer.delivery.exporter.embedded import EmbeddedExporter  # noqa: PLC0415 - only what is used

    return EmbeddedExporter(destination)
