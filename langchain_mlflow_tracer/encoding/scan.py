"""Collects the texts and keys of a trace, once, before they are searched for attachments and secrets.

Hardly any trace has either: a look at the collection decides whether a second walk is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from langchain_mlflow_tracer.encoding.common_prefix import CommonPrefixes

__all__ = ["TraceScan"]

LONG: Final = 8
"""Items from which it pays to check whether a list begins as an earlier one did."""

_NUMBERS: Final = (int, float, type(None))


@dataclass(slots=True)
class TraceScan:
    """The texts and keys in plain data; `is_plain` is whether all else is numbers or None."""

    texts: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    is_plain: bool = True

    @classmethod
    def of(cls, values: Iterable[object]) -> TraceScan:
        """Scan plain data; a dict or list that several places share is scanned once."""
        scan = cls()
        add, add_keys, visited, prefixes = scan.texts.add, scan.keys.update, set[int](), CommonPrefixes()
        pending = list(values)  # holds every value, so no id is reused
        for value in pending:  # the list grows while it is iterated over: no recursion, however deep the data
            if type(value) is str:
                add(value)
            elif isinstance(value, dict):
                if id(value) not in visited:
                    visited.add(id(value))
                    add_keys(value)
                    pending += value.values()
            elif isinstance(value, list):
                if id(value) not in visited:
                    visited.add(id(value))
                    pending += value if len(value) < LONG else value[prefixes.known(value) :]
            elif not isinstance(value, _NUMBERS):
                scan.is_plain = False
        return scan
