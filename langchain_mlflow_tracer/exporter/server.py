"""Sends traces to an MLflow tracking server: by OTLP where its version reads whole traces from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from langchain_mlflow_tracer.destination import Destination
from langchain_mlflow_tracer.errors import ExportError, TransientExportError
from langchain_mlflow_tracer.exporter import decoded
from langchain_mlflow_tracer.exporter.http import Connection
from langchain_mlflow_tracer.exporter.start_trace import announce, start_trace

__all__ = ["ServerExporter"]

OTLP_SINCE: Final = (3, 15)
"""The first server that reads name, tags, session and user from OTLP, and does not add tokens up again
when a trace is sent twice (mlflow 3.15)."""

DEFAULT_EXPERIMENT: Final = "0"

_EXPERIMENTS: Final = "/api/2.0/mlflow/experiments"


class ServerExporter:
    """Delivers to one server and experiment. What it learned of them is forgotten at every failure."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._connection = Connection(destination.tracking_uri)
        self._version: tuple[int, int] | None = None
        self._experiment_id: str | None = None

    def export(self, payloads: Sequence[bytes]) -> None:
        """Store traces, each once: in one request by OTLP, or one by one on servers before 3.15."""
        try:
            version = self._version = self._version or self._probe()
            experiment_id = self._experiment_id = self._experiment_id or self._resolve()
            if version >= OTLP_SINCE:
                self._post(payloads, experiment_id)
            else:
                for payload in payloads:
                    start_trace(self._connection, payload, experiment_id)
        except ExportError:
            self._version = self._experiment_id = None
            raise

    def _probe(self) -> tuple[int, int]:
        text = self._connection.request("GET", "/version").text
        match = re.match(r"\s*(\d+)\.(\d+)", text)
        if match is None:
            raise TransientExportError(f"/version did not answer as an MLflow server does: {text[:80]!r}")
        return int(match[1]), int(match[2])

    def _post(self, payloads: Sequence[bytes], experiment_id: str) -> None:
        for payload in payloads:
            if decoded.may_have_metadata(payload) and decoded.has_metadata(trace := decoded.spans(payload)):
                announce(self._connection, trace, experiment_id)  # OTLP does not carry it
        # Serialized requests, one after the other, are one request.
        self._connection.request(
            "POST",
            "/v1/traces",
            data=b"".join(payloads),
            headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment_id},
        )

    def _resolve(self) -> str:
        """The experiment's id; one that is known by name only is made where it is not there."""
        name = self._destination.experiment_name
        if name is None:
            return self._destination.experiment_id or DEFAULT_EXPERIMENT
        return self._find(name) or self._create(name) or self._find(name) or self._give_up(name)

    def _find(self, name: str) -> str | None:
        answer = self._connection.request(
            "GET", f"{_EXPERIMENTS}/get-by-name", params={"experiment_name": name},
            accept=frozenset({HTTPStatus.NOT_FOUND}),
        )  # fmt: skip
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        experiment = answer.json()["experiment"]
        if experiment.get("lifecycle_stage") == "deleted":
            raise TransientExportError(f"the experiment {name!r} is deleted: restore it, or name another one")
        return str(experiment["experiment_id"])

    def _create(self, name: str) -> str | None:
        """None where somebody else was faster (RESOURCE_ALREADY_EXISTS)."""
        answer = self._connection.request(
            "POST", f"{_EXPERIMENTS}/create", json={"name": name}, accept=frozenset({HTTPStatus.BAD_REQUEST})
        )
        return str(answer.json()["experiment_id"]) if answer.ok else None

    def _give_up(self, name: str) -> str:
        raise TransientExportError(f"the experiment {name!r} can be neither found nor made")
