"""Medians, quartiles and what one contestant adds to another, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Added", "added", "quantile"]


@dataclass(frozen=True)
class Added:
    """What a contestant took, and what that is more than untraced in the same round."""

    value: float
    more: float
    low: float
    high: float
    ratio: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def added(mine: Sequence[float], base: Sequence[float]) -> Added:
    """Compare rounds with those of the untraced chain that were next to them: machines drift."""
    more = [one - other for one, other in zip(mine, base, strict=True)]
    ratios = [one / other for one, other in zip(mine, base, strict=True) if other]
    return Added(
        value=statistics.median(mine),
        more=statistics.median(more),
        low=quantile(more, 0.25),
        high=quantile(more, 0.75),
        ratio=statistics.median(ratios) if ratios else 0.0,
    )
