"""Computes medians, quartiles, and the overhead of a contestant for each round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Added", "added", "quantile"]


@dataclass(frozen=True)
class Added:
    """The time of a contestant, and its overhead over untraced in the same round."""

    value: float
    more: float
    low: float
    high: float
    ratio: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def added(mine: Sequence[float], base: Sequence[float]) -> Added:
    """Compare each round with the untraced chain of the same round: the speed of a machine changes."""
    more = [one - other for one, other in zip(mine, base, strict=True)]
    ratios = [one / other for one, other in zip(mine, base, strict=True) if other]
    return Added(
        value=statistics.median(mine),
        more=statistics.median(more),
        low=quantile(more, 0.25),
        high=quantile(more, 0.75),
        ratio=statistics.median(ratios) if ratios else 0.0,
    )
