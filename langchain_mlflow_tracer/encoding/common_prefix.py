"""Knows lists that begin as earlier ones did, as an agent's conversation does at every step.

Looked through whole each time, twice the steps would take four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_

__all__ = ["Grown"]


class Grown:
    """The longest of the lists that begin with the same object; it holds them."""

    def __init__(self) -> None:
        self._longest: dict[int, Sequence[object]] = {}

    def known(self, items: Sequence[object]) -> int:
        """Return with how many of its items an earlier list began, and remember this one if it is longer."""
        if not items:
            return 0
        first = id(items[0])
        before = self._longest.get(first, ())
        # In one step for the interpreter, not in some for each item.
        known = min(len(before), len(items)) if all(map(is_, before, items)) else 0
        if known < len(items):
            self._longest[first] = items
        return known
