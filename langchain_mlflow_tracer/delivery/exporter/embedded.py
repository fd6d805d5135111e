"""Stores traces in a database of MLflow's own, opened in this process: no server in between."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.exporter import artifacts, entities, mlflow_import
from langchain_mlflow_tracer.delivery.exporter.attachment_store import AttachmentStore
from langchain_mlflow_tracer.encoding import unfinished
from langchain_mlflow_tracer.encoding.attachments import Attachment
from langchain_mlflow_tracer.encoding.payload import read_attachments, split_attachments
from langchain_mlflow_tracer.mlflow_private import Gone
from langchain_mlflow_tracer.mlflow_private.store import open_store
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.installed_mlflow import INSTALL, NO_DATABASES, opens_databases

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo
    from mlflow.exceptions import MlflowException

__all__ = ["EmbeddedExporter"]

_MAY_BE_THE_TRACE: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INTERNAL_ERROR"})
"""Error codes of MLflow for bad values, and for most failures of its own code (mlflow 3.17.2). A database
that is locked, full or not available has another code."""


class EmbeddedExporter:
    """Sends to one database and experiment; it holds the GIL for long: best in a process of its own."""

    def __init__(self, destination: Destination, log: Log) -> None:
        self._destination = destination
        self._store: Any = None
        self._experiment_id: str | None = None
        self._attachments = AttachmentStore(self._place, self._put, log)

    def export(self, payloads: Sequence[bytes]) -> None:
        """Store traces in one transaction, each once."""
        _import_mlflow()
        parts = [split_attachments(payload) for payload in payloads]
        traces = [entities.spans(spans) for _, spans in parts]
        self._store_spans(traces, [trace for trace in traces if _is_announced(trace)], links=True)
        self._store_attachments(parts)

    def show(self, payloads: Sequence[bytes]) -> None:
        """Store the spans of running traces; MLflow shows such traces as in progress."""
        _import_mlflow()
        parts = [split_attachments(payload) for payload in payloads]
        self._store_spans([entities.spans(unfinished.as_running(spans)) for _, spans in parts], announced=[])
        self._store_attachments(parts)

    def _store_attachments(self, parts: Sequence[tuple[bytes, bytes]]) -> None:
        for attachments, _ in parts:
            self._attachments.store(read_attachments(attachments))

    def _place(self, trace_id: str) -> str:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - never on a caller's thread

        try:
            return artifacts.place(self._store.get_trace_info(trace_id).tags)
        except MlflowException as error:
            raise TransientExportError(str(error)) from error

    def _put(self, place: str, attachment: Attachment) -> None:
        artifacts.put(self._destination.tracking_uri, place, attachment.path, attachment.content)

    def _store_spans(self, traces: list[Any], announced: list[Any], *, links: bool = False) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - never on a caller's thread

        try:
            store = self._open()
            experiment_id = self._experiment_id = self._experiment_id or self._resolve(store)
            sums = _sums_itself()
            infos = [entities.trace_info(trace, experiment_id, with_tokens=not sums) for trace in announced]
            if not sums:
                self._announce(infos)
            store.log_spans(experiment_id, list(chain.from_iterable(traces)))
            if sums:  # after the spans: from now on MLflow does not change the totals
                self._announce(infos)
            for trace in traces if links else ():
                if prompts := entities.prompts(trace):
                    store.link_prompts_to_trace(trace[0].trace_id, prompts)
        except MlflowException as error:
            self._experiment_id = None
            raise _export_error(error) from error

    def _announce(self, infos: Sequence[TraceInfo]) -> None:
        for info in infos:
            self._store.start_trace(info)

    def _open(self) -> Any:
        """Open the store as MLflow itself would; a missing database is created, which takes some seconds."""
        if self._store is None:
            try:
                self._store = open_store(self._destination.tracking_uri)
            except Gone as gone:  # transient: another version may have the name again
                raise TransientExportError(f"this mlflow cannot be used for a database: {gone}") from gone
        return self._store

    def _resolve(self, store: Any) -> str:
        name = self._destination.experiment_name
        if name is None:
            return self._destination.experiment_id or entities.DEFAULT_EXPERIMENT
        experiment = store.get_experiment_by_name(name)
        if experiment is None:
            return str(self._create(store, name))
        if experiment.lifecycle_stage == "deleted":
            raise entities.experiment_deleted(name)
        return str(experiment.experiment_id)

    def _create(self, store: Any, name: str) -> object:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            return store.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return store.get_experiment_by_name(name).experiment_id


def _import_mlflow() -> None:
    if not opens_databases():  # another process may, or this one after an installation
        raise TransientExportError(f"{NO_DATABASES}: {INSTALL}")
    mlflow_import.import_mlflow()


def _is_announced(trace: list[Any]) -> bool:
    """Whether a trace has facts that this mlflow does not read from its root span."""
    if trace[0].parent_id is not None:
        return False  # a part: the process that has the root sends its facts
    return entities.has_metadata(trace) or not _sums_itself()


def _sums_itself() -> bool:
    """Whether this mlflow reads a trace's facts from its spans, and adds up their tokens."""
    import mlflow  # noqa: PLC0415 - never on a caller's thread

    return (entities.read_version(mlflow.__version__) or entities.OTLP_SINCE) >= entities.OTLP_SINCE


def _export_error(error: MlflowException) -> TransientExportError:
    return TransientExportError(str(error), suspect=error.error_code in _MAY_BE_THE_TRACE)
