"""Stores the attachments of traces, after the traces themselves, and each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final
from uuid import UUID

from langchain_mlflow_tracer.core.errors import ExportError, PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import mlflow_id
from langchain_mlflow_tracer.encoding.attachments import Attachment

__all__ = ["AttachmentStore"]

REMEMBERED: Final = 10_000
"""Attachments that are known to be stored: a trace that is shown, or sent again, has them again."""

_REJECTED: Final = frozenset({
    HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.NOT_IMPLEMENTED,
})  # fmt: skip
"""Statuses by which a server rejects an attachment, though it has just stored the trace."""

_SWITCHED_OFF: Final = "serve-artifacts"
"""Part of the 503 that a server answers after `mlflow server --no-serve-artifacts` (mlflow 3.17.2)."""

Place = Callable[[str], str]
"""Returns where the artifacts of a trace belong, by MLflow's id of the trace."""

Put = Callable[[str, Attachment], None]
"""Stores an attachment at such a place."""


class AttachmentStore:
    """Stores attachments by `put`, at the places that `place` returns.

    If they are rejected, the traces are sent without them, and that is logged.
    """

    def __init__(self, place: Place, put: Put, log: Log) -> None:
        self._place = place
        self._put = put
        self._stored: set[tuple[bytes, UUID]] = set()
        self._log = log

    def store(self, attachments: Sequence[Attachment]) -> None:
        """Store attachments of one trace, which is stored already.

        Raises:
            TransientExportError: they could not be stored now; they may be later.
        """
        missing = [item for item in attachments if (item.trace_id, item.id) not in self._stored]
        if not missing:
            return
        try:
            self._store(self._place(mlflow_id(missing[0].trace_id)), missing)
        except ExportError as error:
            status, retry_after = getattr(error, "status", None), getattr(error, "retry_after", None)
            raise TransientExportError(
                f"attachments of a trace cannot be stored: {error}", status=status, retry_after=retry_after
            ) from error

    def _store(self, place: str, attachments: Sequence[Attachment]) -> None:
        for attachment in attachments:
            try:
                self._put(place, attachment)
            except ExportError as error:
                if not _is_rejection(error):
                    raise
                self._log.report("attachment_refused", "traces are stored without attachments: %s", error)
                return
            if len(self._stored) >= REMEMBERED:
                self._stored.clear()
            self._stored.add((attachment.trace_id, attachment.id))


def _is_rejection(error: ExportError) -> bool:
    if isinstance(error, TransientExportError):
        return error.status in _REJECTED or _SWITCHED_OFF in str(error)
    return isinstance(error, PermanentExportError)
