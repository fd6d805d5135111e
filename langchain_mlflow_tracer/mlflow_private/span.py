"""Knows what a span of MLflow's stands for: the span of OpenTelemetry in it, and the files beside it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["check_span", "files", "otel_span"]


def otel_span(span: Any) -> Any:
    """Return the span of OpenTelemetry that a span of MLflow's stands for."""
    return span._span


def files(span: Any) -> Mapping[str, Any]:
    """Return the attachments of a span, by their ids."""
    found: Mapping[str, Any] = span._attachments
    return found


def check_span() -> None:
    """Try both on a span that is made for it.

    Raises:
        AttributeError: one of them is gone.
    """
    made = importlib.import_module("mlflow.entities").Span(ReadableSpan("self-test"))
    otel_span(made)
    files(made)
