"""Sets OpenTelemetry's propagators as an application does that names ours in `OTEL_PROPAGATORS`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from opentelemetry import propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from langchain_mlflow_tracer.bridge.propagation import Propagator

__all__ = ["propagating"]


@contextlib.contextmanager
def propagating() -> Iterator[None]:
    """Let OpenTelemetry use tracecontext, baggage and ours until the block ends."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(
        CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator(), Propagator()])
    )
    try:
        yield
    finally:
        propagate.set_global_textmap(before)
