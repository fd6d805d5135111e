"""Sends traces to an MLflow tracking server, by OTLP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

from langchain_mlflow_tracer.core.errors import ExportError, PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import mlflow_id
from langchain_mlflow_tracer.delivery.exporter import artifacts, entities, mlflow_import
from langchain_mlflow_tracer.delivery.exporter.answers import is_file, is_otlp, is_version, json_with
from langchain_mlflow_tracer.delivery.exporter.attachment_store import AttachmentStore
from langchain_mlflow_tracer.delivery.exporter.entities import (
    DEFAULT_EXPERIMENT,
    OLDEST_SERVER,
    OTLP_SINCE,
    dotted,
    experiment_deleted,
    read_version,
)
from langchain_mlflow_tracer.delivery.exporter.http import PROBE_TIMEOUT, Connection
from langchain_mlflow_tracer.delivery.exporter.probe import probe
from langchain_mlflow_tracer.delivery.exporter.start_trace import announce
from langchain_mlflow_tracer.encoding import unfinished
from langchain_mlflow_tracer.encoding.attachments import Attachment
from langchain_mlflow_tracer.encoding.payload import read_attachments, split_attachments
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["EXPERIMENTS", "ServerExporter"]

_UNSEEN: Final = frozenset({
    HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.NOT_IMPLEMENTED,
})  # fmt: skip
"""Statuses of a server that does not find a file, or does not know such a request."""

TRACES: Final = "/api/3.0/mlflow/traces"
LINK: Final = "/api/2.0/mlflow/traces/link-prompts"
EXPERIMENTS: Final = "/api/2.0/mlflow/experiments"

_NOT_LINKED: Final = frozenset({
    HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED,
})  # fmt: skip
"""Statuses if a prompt cannot be linked: the trace is sent without the link."""


class ServerExporter:
    """Sends to one server and experiment; after a failure it asks for version and experiment id again."""

    def __init__(self, destination: Destination, log: Log) -> None:
        self._destination = destination
        self._log = log
        self._connection = Connection(destination.tracking_uri)
        self._version: tuple[int, int] | None = None
        self._experiment_id: str | None = None
        self._shares_folder: bool | None = None
        self._attachments = AttachmentStore(self._place, self._put, log)

    def export(self, payloads: Sequence[bytes]) -> None:
        """Store traces, each once: in one request by OTLP, or one by one on servers before 3.15."""
        parts = [split_attachments(payload) for payload in payloads]
        traces = [spans for _, spans in parts]
        with self._known() as (version, experiment_id):
            if version >= OTLP_SINCE:
                self._post(traces, experiment_id)
                # After the spans: from now on MLflow does not change the totals.
                self._announce(traces, experiment_id)
            else:
                for trace in traces:
                    self._store_one(trace, experiment_id)
            self._link(traces)
            self._store_attachments(parts)

    def show(self, payloads: Sequence[bytes]) -> None:
        """Show running traces; not to servers before 3.15, which would show them as ended."""
        parts = [split_attachments(payload) for payload in payloads]
        with self._known() as (version, experiment_id):
            if version >= OTLP_SINCE:
                self._post([unfinished.as_running(spans) for _, spans in parts], experiment_id)
                self._store_attachments(parts)

    def _store_one(self, trace: bytes, experiment_id: str) -> None:
        spans = entities.spans(trace)
        if spans[0].parent_id is None:  # else it is a part: the process that has the root announces the trace
            # Before the spans: after them, this server would add their tokens to those that are announced.
            announce(self._connection, entities.trace_info(spans, experiment_id))
        self._post([trace], experiment_id)

    @contextlib.contextmanager
    def _known(self) -> Iterator[tuple[tuple[int, int], str]]:
        """Yield the server's version and the experiment's id; ask for them if they are not known."""
        try:
            with _blaming_no_trace():
                version = self._version = self._version or self._probe()
                experiment_id = self._experiment_id = self._experiment_id or self._resolve()
            yield version, experiment_id
        except ExportError:
            self._version = self._experiment_id = self._shares_folder = None
            self._connection.failed()
            raise
        self._connection.succeeded()

    def _probe(self) -> tuple[int, int]:
        if not mlflow_import.is_done():
            probe(self._destination, PROBE_TIMEOUT * self._connection.patience, self._log)
            mlflow_import.import_mlflow()
        answer = self._connection.request("GET", "/version", kind=is_version, timeout=PROBE_TIMEOUT)
        version = read_version(answer.text) or (0, 0)  # `is_version` has checked it
        if version < OLDEST_SERVER:  # transient: it may be upgraded, so the traces stay pending
            raise TransientExportError(
                f"the server is MLflow {dotted(version)}: upgrade it to {dotted(OLDEST_SERVER)} or newer"
            )
        return version

    def _announce(self, payloads: Sequence[bytes], experiment_id: str) -> None:
        """Send the metadata of traces, which OTLP does not carry."""
        for payload in payloads:
            if entities.may_have_metadata(payload) and entities.has_metadata(
                trace := entities.spans(payload)
            ):
                announce(self._connection, entities.trace_info(trace, experiment_id, with_tokens=False))

    def _info(self, trace_id: str) -> dict[str, Any]:
        answer = self._connection.request("GET", f"{TRACES}/{trace_id}", kind=json_with("trace"))
        info: dict[str, Any] = answer.json()["trace"]["trace_info"]
        return info

    def _link(self, payloads: Sequence[bytes]) -> None:
        """Link traces to the prompts of MLflow's registry that they used; linking twice changes nothing."""
        for payload in payloads:
            trace = entities.spans(payload) if entities.may_have_prompts(payload) else []
            if prompts := entities.prompts(trace):
                versions = [asdict(prompt) for prompt in prompts]
                body = {"trace_id": trace[0].trace_id, "prompt_versions": versions}
                # A server without this request has the tag, which names the same prompts.
                self._connection.request("POST", LINK, json=body, accept=_NOT_LINKED)

    def _post(self, payloads: Sequence[bytes], experiment_id: str) -> None:
        # Serialized requests, one after the other, are one request.
        self._connection.request(
            "POST",
            "/v1/traces",
            data=b"".join(payloads),
            headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment_id},
            kind=is_otlp,
        )

    def _store_attachments(self, parts: Sequence[tuple[bytes, bytes]]) -> None:
        for attachments, _ in parts:
            self._attachments.store(read_attachments(attachments))

    def _place(self, trace_id: str) -> str:
        return artifacts.place(self._info(trace_id).get("tags") or {})

    def _put(self, place: str, attachment: Attachment) -> None:
        if artifacts.is_folder(place) and not self._shares(place, attachment):
            raise PermanentExportError(
                "the server keeps artifacts in a folder that is not shared with this machine"
                " (use mlflow server --serve-artifacts, and an experiment that was created with it)"
            )
        artifacts.send(self._connection, place, attachment.path, attachment.content)

    def _shares(self, folder: str, attachment: Attachment) -> bool:
        """Whether the server can read files that are written to a folder here: an empty file tests it."""
        if self._shares_folder is None:
            uri = self._connection.tracking_uri
            artifacts.put(uri, folder, attachment.path, b"")
            answer = self._connection.request(
                "HEAD",
                "/ajax-api/2.0/mlflow/get-trace-artifact",
                params={"request_id": mlflow_id(attachment.trace_id), "path": str(attachment.id)},
                kind=is_file,
                accept=_UNSEEN,
            )
            self._shares_folder = answer.ok
            if not answer.ok:
                artifacts.remove(uri, folder, attachment.path)
        return self._shares_folder

    def _resolve(self) -> str:
        """Return the experiment's id; an experiment with a name is created if it does not exist."""
        name = self._destination.experiment_name
        if name is None:
            return self._destination.experiment_id or DEFAULT_EXPERIMENT
        return self._find(name) or self._create(name) or self._find(name) or self._give_up(name)

    def _find(self, name: str) -> str | None:
        answer = self._connection.request(
            "GET", f"{EXPERIMENTS}/get-by-name", params={"experiment_name": name},
            kind=json_with("experiment"), accept=frozenset({HTTPStatus.NOT_FOUND}),
        )  # fmt: skip
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        experiment = answer.json()["experiment"]
        if experiment.get("lifecycle_stage") == "deleted":
            raise experiment_deleted(name)
        return str(experiment["experiment_id"])

    def _create(self, name: str) -> str | None:
        """Create the experiment; return None if another process did so before (RESOURCE_ALREADY_EXISTS)."""
        answer = self._connection.request(
            "POST", f"{EXPERIMENTS}/create", json={"name": name},
            kind=json_with("experiment_id"), accept=frozenset({HTTPStatus.BAD_REQUEST}),
        )  # fmt: skip
        return str(answer.json()["experiment_id"]) if answer.ok else None

    def _give_up(self, name: str) -> str:
        raise TransientExportError(f"the experiment {name!r} can be neither found nor created")


@contextlib.contextmanager
def _blaming_no_trace() -> Iterator[None]:
    """Blame no trace for an error before any is sent: such an error is about the server."""
    try:
        yield
    except PermanentExportError as error:
        raise TransientExportError(str(error)) from error
    except TransientExportError as error:
        error.suspect = False
        raise
