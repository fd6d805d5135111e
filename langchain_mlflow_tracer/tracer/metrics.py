"""Offers the statistics of tracers as OpenTelemetry metrics, if the application imports that API.

The instruments do nothing unless the application sets a meter provider.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from langchain_mlflow_tracer.tracer.stats import Stats

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

__all__ = ["observe", "offer"]

METER: Final = "langchain_mlflow_tracer"

_COUNTERS: Final[dict[str, Callable[[Stats], int]]] = {
    "recorded": lambda stats: stats["recorded"],
    "spooled": lambda stats: stats["spooled"],
    "delivered": lambda stats: stats["delivered"],
    "dropped": lambda stats: sum(stats["dropped"].values()),
}
_GAUGES: Final[dict[str, Callable[[Stats], float]]] = {
    "waiting": lambda stats: stats["waiting"],
    "dead_letters": lambda stats: stats["dead_letters"],
}


class HasStats(Protocol):
    """A source of statistics."""

    def stats(self) -> Stats: ...


_observed: weakref.WeakSet[HasStats] = weakref.WeakSet()
_offered: list[Meter] = []
"""The meter, once it has our instruments. They cannot be removed, so there is one set for the process."""


def observe(source: HasStats) -> None:
    """Include `source` in the sums until it is garbage collected."""
    _observed.add(source)


def offer() -> None:
    """Make the instruments once the application has imported the API, which it must to configure metrics."""
    api = sys.modules.get("opentelemetry.metrics")
    if api is None or _offered or not hasattr(api, "get_meter"):
        return
    meter: Meter = api.get_meter(METER)
    _offered.append(meter)
    for name, read in _COUNTERS.items():
        meter.create_observable_counter(f"{METER}.{name}", [_sum(read)], "{trace}")
    for name, value in _GAUGES.items():
        meter.create_observable_gauge(f"{METER}.{name}", [_sum(value)], "{trace}")
    meter.create_observable_gauge(f"{METER}.oldest_waiting", [_oldest], "s")


def _sum(read: Callable[[Stats], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(_options: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - it is imported already

        yield Observation(sum(read(source.stats()) for source in list(_observed)))

    return observed


def _oldest(_options: CallbackOptions) -> Iterable[Observation]:
    from opentelemetry.metrics import Observation  # noqa: PLC0415 - it is imported already

    ages = [source.stats()["oldest_waiting_seconds"] for source in list(_observed)]
    yield Observation(max((age for age in ages if age is not None), default=0.0))
