"""Looks through all that a trace holds, once: its texts, and the keys that stand over them.

What is looked for afterwards (pictures, secrets) is in hardly any trace: it is seen so before a second look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from langchain_mlflow_tracer.encoding.common_prefix import Grown

__all__ = ["Contents"]

LONG: Final = 8
"""Items from which it pays to see that a list begins as another did."""


@dataclass(slots=True)
class Contents:
    """The texts and keys in plain data; `is_plain` is whether there is nothing else but numbers."""

    texts: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    is_plain: bool = True

    @classmethod
    def of(cls, values: Iterable[object]) -> Contents:
        """Look through plain data. What is shared in it is looked at once."""
        found = cls()
        add, name, seen, left = found.texts.add, found.keys.update, set[int](), list(values)
        grown = Grown()
        for value in left:  # which grows meanwhile
            if type(value) is str:
                add(value)
            elif isinstance(value, dict):
                if id(value) not in seen:
                    seen.add(id(value))
                    name(value)
                    left += value.values()
            elif isinstance(value, list):
                if id(value) not in seen:
                    seen.add(id(value))
                    left += value if len(value) < LONG else value[grown.known(value) :]
            elif value is not None and not isinstance(value, int | float):
                found.is_plain = False
        return found
