"""Copies a live value so that nothing which happens to it later changes what was recorded.

Runs on the caller's thread: structure is copied, immutable leaves are shared, and there is no JSON,
no disk and no network. What comes back consists of dict, list, str, int, float, bool and None.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from langchain_mlflow_tracer.foreign import attempt

__all__ = ["Copier", "Freezer", "copier"]

MAX_DEPTH = 64
"""Levels that are copied: deeper than any message or state seen, and at four frames a level a quarter of
Python's default recursion limit."""

MAX_NODES = 250_000
"""Values that are copied of one payload, about 50 ms of the caller's time; the rest is only counted."""

MAX_REPR = 10_000
"""Characters of an unknown object's `repr`: enough to recognise it, too few to flood a page."""

MAX_BYTES = 1_000
"""Bytes of binary data that are kept, as base64: enough to recognise a format."""

NODE_COST = 64
"""Bytes that a leaf or container takes in memory beside its characters, roughly, in CPython."""

TYPES_KNOWN = 1024
"""Types whose copier is remembered: programs have dozens; some make new ones all the time."""

_AS_TEXT = (uuid.UUID, dt.date, dt.time, dt.timedelta, decimal.Decimal, pathlib.PurePath)

T = TypeVar("T")

Copier = Callable[[Any, "Freezer"], object]
"""Copies a value of one type."""


class Freezer:
    """Copies values, and adds up in `size` the bytes that the copies take, roughly."""

    __slots__ = ("_copier_of", "_depth", "_nodes", "_path", "size")

    def __init__(self, copier_of: Callable[[type], Copier] | None = None) -> None:
        """Ask `copier_of` how to copy what is not plain data already; `copier` by default."""
        self._copier_of = copier_of or copier
        self._nodes = MAX_NODES
        self._depth = 0
        self._path: set[int] = set()
        self.size = 0

    def __call__(self, value: Any) -> object:
        """Return a copy of `value` made of plain data."""
        kind = type(value)
        if kind is str:
            self.size += len(value) + NODE_COST
            return value
        if value is None or kind is bool or kind is int:
            self.size += NODE_COST
            return value
        if kind is float:
            self.size += NODE_COST
            return value if math.isfinite(value) else repr(value)
        return self._structure(value, kind)

    def _structure(self, value: Any, kind: type) -> object:
        identity = id(value)
        if identity in self._path:
            return f"<circular {kind.__name__}>"
        if self._depth >= MAX_DEPTH:
            return f"<{kind.__name__} below {MAX_DEPTH} levels>"
        self.size += NODE_COST
        self._path.add(identity)
        self._depth += 1
        try:
            if kind is dict:
                return self.mapping(value)
            if kind is list or kind is tuple:
                return self.items(value)
            return self._copier_of(kind)(value, self)
        except RuntimeError as error:  # the caller's own stack is nearly full, or another thread writes
            return f"<{kind.__name__} not copied: {type(error).__name__}>"
        finally:
            self._depth -= 1
            self._path.discard(identity)

    def mapping(self, value: Mapping[Any, object]) -> dict[str, object]:
        """Copy a mapping, its keys as text."""
        frozen: dict[str, object] = {}
        # The list is one step for the interpreter: no other thread can change the mapping meanwhile.
        snapshot = list(value.items())
        for key, item in self._affordable(snapshot):
            name = key if type(key) is str and key not in frozen else self._key(key, frozen)
            self.size += len(name)
            if type(item) is str:  # as most are; the same as self(item), without the call
                self.size += len(item) + NODE_COST
                frozen[name] = item
            else:
                frozen[name] = self(item)
        if len(frozen) < len(snapshot):
            frozen["…"] = f"<{len(snapshot) - len(frozen)} more>"
        return frozen

    def items(self, value: Iterable[object]) -> list[object]:
        """Copy a sequence or set as a list."""
        snapshot = list(value)
        frozen = [self(item) for item in self._affordable(snapshot)]
        if len(frozen) < len(snapshot):
            frozen.append(f"<{len(snapshot) - len(frozen)} more>")
        return frozen

    def _affordable(self, items: list[T]) -> list[T]:
        """As many of `items` as may still be copied."""
        left, self._nodes = self._nodes, self._nodes - len(items)
        return items if self._nodes >= 0 else items[: max(0, left)]

    def _key(self, key: object, taken: Mapping[str, object]) -> str:
        name = attempt(lambda: str(self(key)), lambda _: f"<{type(key).__name__}>")
        return name if name not in taken else f"{name} ({type(key).__name__} {len(taken)})"


@lru_cache(maxsize=TYPES_KNOWN)
def copier(kind: type) -> Copier:
    """Return how values of a type that is not plain data are copied."""
    for base, copy in _COPIERS:
        if issubclass(kind, base):
            return copy
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _tolerant(_named_tuple)
    if issubclass(kind, list | tuple | set | frozenset):
        return _tolerant(lambda value, freezer: freezer.items(value))
    if hasattr(kind, "model_fields"):
        return _tolerant(_pydantic)
    if issubclass(kind, Mapping):
        return _tolerant(lambda value, freezer: freezer.mapping(value))
    return _tolerant(_dataclass) if dataclasses.is_dataclass(kind) else _describe


def _tolerant(copy: Copier) -> Copier:
    """What runs code of the value's own class may raise: the value is then described instead."""
    return lambda value, freezer: attempt(lambda: copy(value, freezer), lambda _: _describe(value, freezer))


def _pydantic(value: Any, freezer: Freezer) -> object:
    """The fields as they are stored: computed ones are code, excluded ones are nobody's business."""
    stored = value.__dict__
    fields = type(value).model_fields.items()
    shown = {name: stored[name] for name, field in fields if name in stored and not field.exclude}
    return freezer.mapping({**shown, **(value.__pydantic_extra__ or {})})


def _dataclass(value: Any, freezer: Freezer) -> object:
    names = (field.name for field in dataclasses.fields(value))
    return freezer.mapping({name: getattr(value, name) for name in names if hasattr(value, name)})


def _named_tuple(value: Any, freezer: Freezer) -> object:
    return freezer.mapping(dict(zip(value._fields, value, strict=False)))


def _binary(value: Any, freezer: Freezer) -> object:
    # A slice, for a view of the whole would keep the application from resizing its bytearray meanwhile.
    kept = base64.b64encode(bytes(value[:MAX_BYTES])[:MAX_BYTES]).decode()
    total = value.nbytes if isinstance(value, memoryview) else len(value)
    more = f" (the first {MAX_BYTES} of {total} bytes)" if total > MAX_BYTES else ""
    return freezer(f"data:application/octet-stream;base64,{kept}{more}")


def _describe(value: Any, freezer: Freezer) -> object:
    """An unknown object as its `repr`, or as its type where even that raises."""
    name = type(value).__qualname__
    text = attempt(lambda: repr(value), lambda error: f"<{name}, whose repr raised {type(error).__name__}>")
    return freezer(text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}… ({len(text)} characters)")


_COPIERS: tuple[tuple[Any, Copier], ...] = (
    (enum.Enum, _tolerant(lambda value, freezer: freezer(value.value))),
    (str, lambda value, freezer: freezer(str.__str__(value))),
    (int, lambda value, freezer: freezer(int.__int__(value))),
    (float, lambda value, freezer: freezer(float.__float__(value))),
    (_AS_TEXT, _tolerant(lambda value, freezer: freezer(str(value)))),
    ((bytes, bytearray, memoryview), _tolerant(_binary)),
)
