"""Writes plain data as JSON text; no value in it raises an error."""

from __future__ import annotations

from typing import Final

import orjson

from langchain_mlflow_tracer.core.record import JsonText

__all__ = ["INT64", "decimal", "json_bytes", "utf8_text"]

INT64: Final = range(-(2**63), 2**63)
"""Integers that JSON and OTLP can represent; larger ones are written as text."""

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS

MAX_DECIMAL: Final = 2_000
"""The most bits of an integer that is written in decimal: Python is slow, or refuses, with more digits."""


def json_bytes(value: object) -> bytes:
    """Return plain data as JSON; values that JSON does not have are written as text."""
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except (TypeError, ValueError):  # a lone surrogate, an integer over 64 bits
        return orjson.dumps(_writable(value), default=_default, option=_OPTIONS)


def _default(value: object) -> object:
    return json_bytes(dict(value)).decode() if isinstance(value, JsonText) else str(value)


def _writable(value: object) -> object:
    if isinstance(value, str):
        return utf8_text(value)
    if isinstance(value, int) and value not in INT64:
        return decimal(value)
    if isinstance(value, dict):
        return type(value)({utf8_text(key): _writable(item) for key, item in value.items()})
    if isinstance(value, list):
        return [_writable(item) for item in value]
    return value


def decimal(value: int) -> str:
    """Return an integer as text: in decimal, or in hexadecimal if decimal would be slow."""
    return str(value) if value.bit_length() <= MAX_DECIMAL else hex(value)


def utf8_text(text: str) -> str:
    """Return text that UTF-8 can encode: lone surrogates are escaped as Python escapes them."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
