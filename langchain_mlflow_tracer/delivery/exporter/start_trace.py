"""Speaks StartTraceV3, which takes all that MLflow keeps of a trace beside its spans.

With the spans as an artifact it is slow, and right on every MLflow server since 3.3.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_mlflow_tracer.delivery.exporter import artifacts, entities
from langchain_mlflow_tracer.delivery.exporter.answers import json_with
from langchain_mlflow_tracer.delivery.exporter.http import Connection

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

__all__ = ["announce", "start_trace"]


def start_trace(connection: Connection, payload: bytes, experiment_id: str) -> None:
    """Store an encoded trace; stored again it overwrites itself."""
    trace = entities.spans(payload)
    location = artifacts.place(announce(connection, entities.trace_info(trace, experiment_id)))
    text = json.dumps({"spans": [span.to_dict() for span in trace]}, ensure_ascii=False)
    artifacts.send(connection, location, "traces.json", text.encode())


def announce(connection: Connection, info: TraceInfo) -> dict[str, str]:
    """Store what MLflow keeps of a trace beside its spans; return the tags that the server gave it."""
    path, kind = "/api/3.0/mlflow/traces", json_with("trace")
    answer = connection.request("POST", path, json=_request(info), kind=kind).json()
    return answer["trace"]["trace_info"].get("tags") or {}


def _request(info: TraceInfo) -> object:
    from mlflow.entities import Trace, TraceData  # noqa: PLC0415 - never on a caller's thread
    from mlflow.protos.service_pb2 import StartTraceV3  # noqa: PLC0415
    from mlflow.utils.proto_json_utils import message_to_json  # noqa: PLC0415

    trace: Any = Trace(info, TraceData(spans=[]))  # its to_proto is not typed
    return json.loads(message_to_json(StartTraceV3(trace=trace.to_proto())))
