"""Sends the data of a trace that OTLP does not carry, such as its metadata: MLflow's StartTraceV3."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_mlflow_tracer.delivery.exporter.answers import json_with
from langchain_mlflow_tracer.delivery.exporter.http import Connection

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

__all__ = ["announce"]


def announce(connection: Connection, info: TraceInfo) -> None:
    """Store `info`; stored again it overwrites itself."""
    connection.request("POST", "/api/3.0/mlflow/traces", json=_request(info), kind=json_with("trace"))


def _request(info: TraceInfo) -> object:
    from mlflow.entities import Trace, TraceData  # noqa: PLC0415 - never on a caller's thread
    from mlflow.protos.service_pb2 import StartTraceV3  # noqa: PLC0415
    from mlflow.utils.proto_json_utils import message_to_json  # noqa: PLC0415

    trace: Any = Trace(info, TraceData(spans=[]))  # its to_proto is not typed
    return json.loads(message_to_json(StartTraceV3(trace=trace.to_proto())))
