"""Defines the rows of the table: the task, the unit and the bound."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.cost.contestants import OURS
from benchmarks.cost.figures import quantile

__all__ = ["ROWS", "Row", "added_at_most", "kept_at_least"]


@dataclass(frozen=True)
class Row:
    """A task for each contestant, and the figure that each turn returns."""

    name: str
    unit: str
    task: str
    figure: Callable[[Any], float]
    bound: float
    rounds: int
    arguments: Mapping[str, int] = field(default_factory=dict)
    ours: str = OURS
    share: bool = False
    """The bound is a minimum share of the untraced throughput, not a maximum overhead."""
    fresh: bool = False
    """Each turn runs in a new process."""


def added_at_most(row: Row, more: float) -> bool:
    """Whether the overhead is within the bound."""
    return more <= row.bound


def kept_at_least(row: Row, ratio: float) -> bool:
    """Whether the share of the throughput (untraced time divided by traced time) is within the bound."""
    return 1 / ratio >= row.bound


def median_of(scale: float) -> Callable[[Sequence[float]], float]:
    """Return a function for the median of nanoseconds, in units of `scale` nanoseconds."""
    return lambda taken: statistics.median(taken) / scale


US: Final = 1e3
MS: Final = 1e6

INVOKES: Final = {"count": 200}
MANY: Final = {"count": 1000}
"""Enough for a 99th percentile: ten invokes are above it."""


def _p99(taken: Sequence[float]) -> float:
    return quantile(taken, 0.99) / US


def _cpu(whose: str) -> Callable[[Mapping[str, float]], float]:
    return lambda told: told[whose] / US


def _agent(rounds: int, bound: float) -> Row:
    return Row(
        f"agent, {rounds} rounds", "ms", "agent", median_of(MS), bound, 8, {"count": 3, "rounds": rounds}
    )


ROWS: Final = (
    Row("invoke, p50", "µs", "invoke", median_of(US), 80, 40, INVOKES),
    Row("invoke, p99, saturated", "µs", "invoke", _p99, 2000, 12, MANY),
    Row("invoke, CPU of the process", "µs", "cpu", _cpu("own"), 300, 8, {"count": 500}),
    Row("invoke, CPU of its children", "µs", "cpu", _cpu("children"), math.inf, 8, {"count": 500}),
    Row("invoke, durability=sync, p50", "µs", "invoke", median_of(US), 250, 20, INVOKES, "tracer-sync"),
    Row("stream of 1,000 tokens", "ms", "stream", median_of(MS), 4, 12, {"count": 5}),
    *(_agent(rounds, math.inf) for rounds in (10, 20)),
    _agent(40, 15),
    _agent(80, 30),  # twice the bound for twice the rounds: growth is linear
    Row("invoke of 200 kB", "µs", "invoke", median_of(US), 150, 12, {"count": 40, "size": 200_000}),
    Row("50 concurrent chains", "ms", "concurrent", median_of(MS), 0.9, 12, {"count": 5}, share=True),
    Row("import", "ms", "imported", lambda told: float(told["import_ns"]) / MS, 40, 5, fresh=True),
    Row("first invoke", "ms", "invoke", median_of(MS), 5, 5, {"count": 1}, fresh=True),
    Row("memory, steady", "MB", "memory", lambda held: float(held) / 1e6, 25, 3, {"count": 2000}, fresh=True),
)
