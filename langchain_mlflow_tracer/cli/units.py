"""Writes numbers in the units that people read."""

from __future__ import annotations

from typing import Final

__all__ = ["duration", "size", "traces"]

_LENGTHS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def traces(count: int) -> str:
    """Return "1 trace", "2 traces"."""
    return f"{count} trace{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Return a number of bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - decimal units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Return a number of seconds in a suitable unit; a negative number is zero."""
    left = max(0, int(seconds))
    for length, unit in _LENGTHS:
        if left >= length:
            return f"{left / length:.1f} {unit}"
    return f"{left} s"
