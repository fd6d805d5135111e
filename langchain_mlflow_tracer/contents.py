"""Looks through all that a trace holds, once: its texts, and the keys that stand over them.

What is looked for afterwards (pictures, secrets) is in hardly any trace: it is seen so before a second look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Contents"]

LONG: Final = 1024
"""Characters from which a text is taken once only, however often it stands in a trace."""


@dataclass(slots=True)
class Contents:
    """The texts and keys in plain data; `is_plain` is whether there is nothing else but numbers."""

    texts: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    is_plain: bool = True

    @classmethod
    def of(cls, values: Iterable[object]) -> Contents:
        """Look through plain data. What is shared in it is looked at once."""
        found = cls()
        texts, seen, left = found.texts, set[int](), list(values)
        while left:
            value = left.pop()
            kind = type(value)
            if kind is str:
                if len(value) < LONG:  # type: ignore[arg-type]  # it is a str
                    texts.append(value)  # type: ignore[arg-type]
                    continue
                if id(value) not in seen:
                    seen.add(id(value))
                    texts.append(value)  # type: ignore[arg-type]
            elif isinstance(value, dict):
                if id(value) not in seen:
                    seen.add(id(value))
                    found.keys.update(value)
                    left.extend(value.values())
            elif kind is list:
                if id(value) not in seen:
                    seen.add(id(value))
                    left.extend(value)  # type: ignore[arg-type]
            elif value is not None and not isinstance(value, int | float):
                found.is_plain = False
        return found
