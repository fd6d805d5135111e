"""Speaks StartTraceV3, which takes all that MLflow keeps of a trace beside its spans.

With the spans as an artifact it is slow, and right on every MLflow server since 3.3.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from langchain_mlflow_tracer.errors import TransientExportError
from langchain_mlflow_tracer.exporter import decoded
from langchain_mlflow_tracer.exporter.http import Connection

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

__all__ = ["announce", "start_trace"]

ARTIFACT_LOCATION: Final = "mlflow.artifactLocation"
"""The tag in which the server says where the spans of a trace belong."""


def start_trace(connection: Connection, payload: bytes, experiment_id: str) -> None:
    """Store an encoded trace; stored again it overwrites itself."""
    trace = decoded.spans(payload)
    tags = announce(connection, trace, experiment_id)
    if ARTIFACT_LOCATION not in tags:
        raise TransientExportError("the server did not say where the spans of a trace belong")
    _upload(connection, tags[ARTIFACT_LOCATION], trace)


def announce(connection: Connection, trace: Sequence[Span], experiment_id: str) -> dict[str, str]:
    """Store what MLflow keeps of a trace beside its spans; return the tags that the server gave it."""
    body = _request(decoded.trace_info(trace, experiment_id))
    answer = connection.request("POST", "/api/3.0/mlflow/traces", json=body).json()
    return answer["trace"]["trace_info"].get("tags") or {}


def _request(info: TraceInfo) -> object:
    from mlflow.entities import Trace, TraceData  # noqa: PLC0415 - never on a caller's thread
    from mlflow.protos.service_pb2 import StartTraceV3  # noqa: PLC0415
    from mlflow.utils.proto_json_utils import message_to_json  # noqa: PLC0415

    trace: Any = Trace(info, TraceData(spans=[]))  # its to_proto is not typed
    return json.loads(message_to_json(StartTraceV3(trace=trace.to_proto())))


def _upload(connection: Connection, location: str, trace: Sequence[Span]) -> None:
    text = json.dumps({"spans": [span.to_dict() for span in trace]}, ensure_ascii=False)
    place = urlsplit(location)
    if place.scheme == "mlflow-artifacts":
        path = quote(f"{place.path.lstrip('/')}/traces.json")
        connection.request("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", data=text.encode())
        return
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415

    get_artifact_repository(location).upload_trace_data(text)
