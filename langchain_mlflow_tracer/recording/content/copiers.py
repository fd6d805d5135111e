"""Copies values of types that are not plain data, a function for each kind of type."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langchain_mlflow_tracer.core.guard import attempt

if TYPE_CHECKING:
    from langchain_mlflow_tracer.recording.content.freeze import Freezer

__all__ = ["NODE_COST", "TYPES_KNOWN", "Copier", "copier"]

MAX_REPR = 10_000
"""Characters of an unknown object's `repr`: enough to recognise it, too few to flood a page."""

MAX_BYTES = 1_000
"""Bytes of binary data that are kept, as base64: enough to recognise a format."""

NODE_COST = 64
"""Bytes that a leaf or container takes in memory beside its characters, roughly, in CPython."""

TYPES_KNOWN = 1024
"""Types whose copier is cached: most programs have dozens, but some create types all the time."""

_AS_TEXT = (uuid.UUID, dt.date, dt.time, dt.timedelta, decimal.Decimal, pathlib.PurePath)

Copier = Callable[[Any, "Freezer"], object]
"""Copies a value of one type."""


@lru_cache(maxsize=TYPES_KNOWN)
def copier(kind: type) -> Copier:
    """Return how values of a type that is not plain data are copied."""
    for base, copy in _COPIERS:
        if issubclass(kind, base):
            return copy
    # The order matters: a named tuple is a tuple, and a Pydantic model may be a mapping.
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _tolerant(_named_tuple)
    if issubclass(kind, list | tuple | set | frozenset):
        return _tolerant(lambda value, freezer: freezer.items(value))
    if hasattr(kind, "model_fields"):
        return _tolerant(_pydantic)
    if issubclass(kind, Mapping):
        return _tolerant(lambda value, freezer: freezer.mapping(value))
    return _tolerant(_dataclass if dataclasses.is_dataclass(kind) else _describe)


def _tolerant(copy: Copier) -> Copier:
    """Copy values whose own class has code that may raise anything: they are then described instead."""

    def tolerant(freezer: Freezer, value: Any) -> object:
        return attempt(lambda: copy(value, freezer), lambda _: _describe(value, freezer))

    return lambda value, freezer: freezer.within(value, tolerant)


def _pydantic(value: Any, freezer: Freezer) -> object:
    """Copy the fields as they are stored: computed fields would run code, excluded fields are private."""
    stored = value.__dict__
    fields = type(value).model_fields.items()
    shown = {name: stored[name] for name, field in fields if name in stored and not field.exclude}
    return freezer.mapping({**shown, **(value.__pydantic_extra__ or {})})


def _dataclass(value: Any, freezer: Freezer) -> object:
    names = (field.name for field in dataclasses.fields(value))
    return freezer.mapping({name: getattr(value, name) for name in names if hasattr(value, name)})


def _float(value: float, freezer: Freezer) -> object:
    freezer.size += NODE_COST
    whole = float.__float__(value)
    return whole if math.isfinite(whole) else repr(whole)


def _named_tuple(value: Any, freezer: Freezer) -> object:
    return freezer.mapping(dict(zip(value._fields, value, strict=False)))


def _binary(value: Any, freezer: Freezer) -> object:
    # A slice, not a view: as long as a view exists, the application cannot resize its bytearray.
    kept = base64.b64encode(bytes(value[:MAX_BYTES])[:MAX_BYTES]).decode()
    total = value.nbytes if isinstance(value, memoryview) else len(value)
    more = f" (the first {MAX_BYTES} of {total} bytes)" if total > MAX_BYTES else ""
    return freezer(f"data:application/octet-stream;base64,{kept}{more}")


def _describe(value: Any, freezer: Freezer) -> object:
    """Copy an unknown object as its `repr`, or as the name of its type if `repr` raises."""
    name = type(value).__qualname__
    text = attempt(lambda: repr(value), lambda error: f"<{name}: repr() raised {type(error).__name__}>")
    return freezer(text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}… ({len(text)} characters)")


# In order: an enumeration may also be a str or an int, and is copied as its value.
_COPIERS: tuple[tuple[Any, Copier], ...] = (
    (enum.Enum, _tolerant(lambda value, freezer: freezer(value.value))),
    # The methods of str, int and float themselves: those of a subclass are foreign code.
    (str, lambda value, freezer: freezer(str.__str__(value))),
    (int, lambda value, freezer: freezer(int.__int__(value))),
    (float, _float),
    (_AS_TEXT, _tolerant(lambda value, freezer: freezer(str(value)))),
    ((bytes, bytearray, memoryview), _tolerant(_binary)),
)
