"""Copies a live value so that nothing which happens to it later changes what was recorded.

Runs on the caller's thread: structure is copied, immutable leaves are shared, and there is no JSON,
no disk and no network. The copy consists of dict, list, str, int, float, bool and None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, is_
from typing import Any

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.recording.content.copiers import NODE_COST, Copier, copier

__all__ = ["NODE_COST", "Freezer", "Memory", "flat"]

MAX_DEPTH = 64
"""Levels that are copied: no known message or state is deeper. A level takes four frames, so these take a
quarter of Python's default recursion limit."""

MAX_NODES = 250_000
"""Values that are copied of one payload: about 50 ms of the caller's time. The rest is only counted."""

LEAVES = 1_000
"""Entries up to which a dict is copied in one step; in larger ones every value is counted first."""

ROW = 8
"""Items from which a list is compared with an earlier list as a whole: for fewer, that takes longer."""

_ATOMS = frozenset({bool, int, type(None)})

_NOT_FLAT: tuple[None, int, list[str]] = None, 0, []

_Row = tuple[list[Any], list[dict[str, Any]], list[object]]
"""A list: its items, the fields of each, and the copies."""

_NO_ROW: _Row = ([], [], [])

_fields = attrgetter("__dict__")


class Memory:
    """The copies that the spans of one trace made: at every step, an agent is given its whole conversation.

    Values are found by their id. The values are held as well, because Python gives the id of an object that
    was freed to another object.
    """

    __slots__ = ("rows", "values")

    def __init__(self) -> None:
        self.values: dict[int, tuple[object, dict[str, Any], object]] = {}
        """By the id of a value: the value, the fields that it had then, and the copy."""
        self.rows: dict[int, _Row] = {}
        """By the id of its first item, the longest list that began with it."""

    def row(self, items: list[Any]) -> _Row:
        """Return the earlier list that `items` begins with, if nothing in it has changed.

        Whole lists are compared, which runs in C: it is much faster than steps for each item.
        """
        row = self.rows.get(id(items[0]), _NO_ROW)
        before, fields, _ = row
        same = len(before) <= len(items) and all(map(is_, before, items))
        return row if same and list(map(_fields, before)) == fields else _NO_ROW


def flat(value: dict[Any, Any]) -> tuple[dict[str, Any] | None, int, list[str]]:
    """Copy a dict of which most values are texts and numbers.

    Return the copy, its size, and the keys of the values that are neither, which are still to be copied. The
    copy is None where a key is no text, or the dict is large.
    """
    others: list[str] = []
    if len(value) > LEAVES:
        return None, 0, others
    copied = value.copy()  # atomic under the GIL, while another thread may change the dict during iteration
    size = NODE_COST
    for key, item in copied.items():
        if type(key) is not str:
            return None, 0, others
        size += len(key)
        if type(item) is str:
            size += len(item) + NODE_COST
        elif type(item) in _ATOMS:
            size += NODE_COST
        else:
            others.append(key)
    return copied, size, others


class Freezer:
    """Copies values, and adds up in `size` the bytes that the copies take, roughly.

    A value that was remembered and has not changed is not copied again: the copy is shared.
    """

    size = 0
    _path: set[int] | None = None

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory or Memory()
        self._known = self._memory.values.get
        self._nodes = MAX_NODES

    @staticmethod
    def copier_of(kind: type) -> Copier:
        """Return how to copy values of a type that is not plain data."""
        return copier(kind)

    def __call__(self, value: Any) -> object:
        """Return a copy of `value` made of plain data."""
        kind = type(value)
        if kind is str:
            self.size += NODE_COST + len(value)
            return value
        if kind in _ATOMS:
            self.size += NODE_COST
            return value
        if kind is dict:
            return self._dict(value)
        if kind is list or kind is tuple:
            return self.within(value, Freezer.items)
        known = self._known(id(value))
        if known is not None and known[1] == value.__dict__:
            return known[2]
        return self.copier_of(kind)(value, self)

    def remember(self, value: object, fields: dict[str, Any], copied: object) -> None:
        """Return `copied` again for `value`, as long as its `__dict__` equals `fields`.

        A comparison of dicts skips objects that are the same in both. So `fields` must hold copies of what
        may change in place.
        """
        self._memory.values[id(value)] = value, fields, copied

    def within(self, value: Any, copy: Callable[..., object], *more: object) -> object:
        """Copy a value that may hold other values, or itself: down to the limit, and not in circles."""
        path = self._path
        if path is None:  # made when it is needed: most payloads are flat
            path = self._path = set()
        identity = id(value)
        if identity in path:
            return f"<circular {type(value).__name__}>"
        if len(path) >= MAX_DEPTH:
            return f"<{type(value).__name__} below {MAX_DEPTH} levels>"
        self.size += NODE_COST
        path.add(identity)
        try:
            return copy(self, value, *more)
        except (
            RuntimeError
        ) as error:  # the caller's stack is nearly full, or another thread changes the value
            return f"<{type(value).__name__} not copied: {type(error).__name__}>"
        finally:
            path.discard(identity)

    def _dict(self, value: dict[Any, Any]) -> object:
        copied, size, others = flat(value) if self._nodes >= LEAVES else _NOT_FLAT
        if copied is None:
            return self.within(value, Freezer.mapping)
        self._nodes -= len(copied)
        self.size += size
        return self.within(value, Freezer._complete, copied, others) if others else copied

    def _complete(self, _value: object, copied: dict[str, Any], others: list[str]) -> dict[str, Any]:
        for key in others:
            copied[key] = self(copied[key])
        return copied

    def mapping(self, value: Mapping[Any, object]) -> dict[str, object]:
        """Copy a mapping, its keys as text."""
        frozen: dict[str, object] = {}
        # The list is atomic under the GIL, while another thread may change the mapping during iteration.
        snapshot = list(value.items())
        self._nodes -= len(snapshot)
        affordable = snapshot if self._nodes >= 0 else snapshot[: max(0, self._nodes + len(snapshot))]
        for key, item in affordable:
            name = key if type(key) is str and key not in frozen else self._key(key, frozen)
            self.size += len(name)
            if type(item) is str:  # the usual case: the same as self(item), without the call
                self.size += len(item) + NODE_COST
                frozen[name] = item
            else:
                frozen[name] = self(item)
        if len(frozen) < len(snapshot):
            frozen["…"] = f"<{len(snapshot) - len(frozen)} more>"
        return frozen

    def _key(self, key: object, taken: Mapping[str, object]) -> str:
        name = attempt(lambda: str(self(key)), lambda _: f"<{type(key).__name__}>")
        return name if name not in taken else f"{name} ({type(key).__name__} {len(taken)})"

    def items(self, value: Iterable[Any]) -> list[object]:
        """Copy a sequence or set as a list."""
        items = list(value)
        self._nodes -= len(items)
        if self._nodes < 0:
            affordable = max(0, self._nodes + len(items))
            return [*self._each(items[:affordable]), f"<{len(items) - affordable} more>"]
        return self._each(items) if len(items) < ROW else self._row(items)

    def _each(self, items: list[Any]) -> list[object]:
        remembered = self._known
        return [
            # The same as self(item), without the call: of a conversation all but the last are known.
            known[2]
            if (known := remembered(id(item))) is not None and known[1] == item.__dict__
            else self(item)
            for item in items
        ]

    def _row(self, items: list[Any]) -> list[object]:
        """Copy a list that may begin as an earlier one did."""
        before, fields, copies = self._memory.row(items)
        more = items[len(before) :]
        frozen = [*copies, *self._each(more)]
        known = [self._known(id(item)) for item in more]
        if more and None not in known:
            fields = [*fields, *(entry[1] for entry in known if entry is not None)]
            self._memory.rows[id(items[0])] = items, fields, frozen.copy()
        return frozen
