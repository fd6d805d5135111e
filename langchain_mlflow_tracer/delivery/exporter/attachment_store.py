"""Sees that the attachments of traces are stored, after the traces themselves, and each once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final
from uuid import UUID

from langchain_mlflow_tracer.core.errors import ExportError, PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import mlflow_id
from langchain_mlflow_tracer.encoding.attachments import Attachment

__all__ = ["Shelf"]

REMEMBERED: Final = 10_000
"""Attachments that are known to be stored: a trace that runs, or is sent again, brings them again."""

_REFUSED: Final = frozenset({
    HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.NOT_IMPLEMENTED,
})  # fmt: skip
"""Answers by which a server that has just taken a trace refuses what belongs to it."""

_SWITCHED_OFF: Final = "serve-artifacts"
"""What a server names that was started with --no-serve-artifacts, and answers 503 (mlflow 3.17.2)."""

Place = Callable[[str], str]
"""Tells where the artifacts of a trace belong, by MLflow's id of it."""

Put = Callable[[str, Attachment], None]
"""Stores an attachment in such a place."""


class Shelf:
    """Stores attachments by `put`, in the places that `place` tells.

    A store that refuses costs the pictures, not the traces: these are delivered without, and it is logged.
    """

    def __init__(self, place: Place, put: Put) -> None:
        self._place = place
        self._put = put
        self._stored: set[tuple[bytes, UUID]] = set()
        self._log = Log(logging.getLogger("langchain_mlflow_tracer"))

    def store(self, attachments: Sequence[Attachment]) -> None:
        """Store attachments of one trace, which is stored already.

        Raises:
            TransientExportError: not this time.
        """
        missing = [one for one in attachments if (one.trace_id, one.id) not in self._stored]
        if not missing:
            return
        try:
            self._store(self._place(mlflow_id(missing[0].trace_id)), missing)
        except ExportError as error:
            status, retry_after = getattr(error, "status", None), getattr(error, "retry_after", None)
            raise TransientExportError(
                f"attachments of a trace wait: {error}", status=status, retry_after=retry_after
            ) from error

    def _store(self, place: str, attachments: Sequence[Attachment]) -> None:
        for one in attachments:
            try:
                self._put(place, one)
            except ExportError as error:
                if not _is_refusal(error):
                    raise
                self._log.report("attachment_refused", "traces are stored without pictures: %s", error)
                return
            if len(self._stored) >= REMEMBERED:
                self._stored.clear()
            self._stored.add((one.trace_id, one.id))


def _is_refusal(error: ExportError) -> bool:
    if isinstance(error, TransientExportError):
        return error.status in _REFUSED or _SWITCHED_OFF in str(error)
    return isinstance(error, PermanentExportError)
