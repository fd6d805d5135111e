"""Counts a part that came late into the totals of its trace.

MLflow sums the tokens and the cost of a trace as spans come, until somebody announces the trace with
StartTraceV3: from then on it takes what it has for final (mlflow 3.15 to 3.17). But a part of it may still be
on its way, from another process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from langchain_mlflow_tracer.core.attributes import TAG_PREFIX, TRACE_NAME
from langchain_mlflow_tracer.core.record import mlflow_id

if TYPE_CHECKING:
    from mlflow.entities import Trace, TraceInfo

__all__ = ["count", "is_final", "parts"]

FINAL: Final = "mlflow.trace.infoFinalized"

TRIES: Final = 5
"""How often a total is written at most, where others write it at the same time."""

_OF_ROOTS: Final = (TAG_PREFIX + TRACE_NAME).encode()
"""What every trace with a root has in it, and hardly any part."""


def parts(payloads: Sequence[bytes]) -> Iterator[str]:
    """Return the ids of the traces of which some payloads are parts, without root."""
    for payload in payloads:
        if _OF_ROOTS not in payload:
            request = ExportTraceServiceRequest.FromString(payload)
            yield mlflow_id(request.resource_spans[0].scope_spans[0].spans[0].trace_id)


def is_final(metadata: object) -> bool:
    """Whether MLflow takes the totals of a trace for final, by its metadata."""
    return isinstance(metadata, dict) and FINAL in metadata


def count(read: Callable[[], Trace], write: Callable[[TraceInfo], object]) -> None:
    """Write the totals of a trace until they are those of its spans, whoever else writes them meanwhile."""
    for _ in range(TRIES):
        trace = read()
        info, totals = trace.info, _totals(trace)
        known = {key: json.loads(info.trace_metadata.get(key, "null")) for key in totals}
        if not is_final(info.trace_metadata) or known == totals:
            return
        info.trace_metadata |= {key: json.dumps(total) for key, total in totals.items()}
        info.assessments = []  # they stay as they are
        write(info)


def _totals(trace: Trace) -> dict[str, object]:
    from mlflow.tracing.constant import TraceMetadataKey  # noqa: PLC0415 - never on a caller's thread
    from mlflow.tracing.utils import (  # noqa: PLC0415
        aggregate_cost_from_spans,
        aggregate_usage_from_spans,
    )

    # They are typed for live spans, and read only what a stored one has too.
    spans: list[Any] = list(trace.data.spans)
    found: dict[str, object] = {
        TraceMetadataKey.TOKEN_USAGE: aggregate_usage_from_spans(spans),
        TraceMetadataKey.COST: aggregate_cost_from_spans(spans),
    }
    return {key: total for key, total in found.items() if total}
