"""Reads the attributes of an encoded span as plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import orjson
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from langchain_mlflow_tracer.core.guard import attempt

__all__ = ["values"]


def values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    """Return attributes by name; dicts and lists as such, though they travel as JSON text."""
    return {one.key: _value(one) for one in attributes}


def _value(attribute: KeyValue) -> object:
    kind = attribute.value.WhichOneof("value")
    if kind == "string_value":
        return _structure(attribute.value.string_value)
    if kind == "double_value" and not math.isfinite(attribute.value.double_value):
        return str(attribute.value.double_value)  # JSON has no such numbers
    if kind in {"bool_value", "int_value", "double_value"}:
        return getattr(attribute.value, kind)
    return None if kind is None else str(attribute.value)


def _structure(text: str) -> object:
    """Dicts and lists travel as JSON text; text that only looks like a number is text.

    JSON that could not be printed again is text too: nested too deep, too many digits, lone surrogates.
    """
    return attempt(_read, lambda _error: text, text) if text[:1] in {"{", "["} else text


def _read(text: str) -> object:
    orjson.dumps(orjson.loads(text))  # stricter than json: 254 levels; but it would round long integers
    read: object = json.loads(text)
    return read
