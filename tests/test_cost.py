"""Guards of the hot path: wide, and relative to the untraced chain of the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from langchain_core.runnables import RunnableConfig

from benchmarks.cost.loads import chain, question
from tests.conftest import MakeTracer

TIMES = 4.0
"""What the tracer may add at most, in times that the untraced chain takes: measured is half of one."""

ROUNDS = 100


def added(untraced: Callable[[], object], traced: Callable[[], object]) -> float:
    """Return what `traced` takes more, in times of `untraced`: medians of turns that alternate."""
    taken: dict[Callable[[], object], list[int]] = {untraced: [], traced: []}
    for _ in range(ROUNDS):
        for work, times in taken.items():
            began = time.perf_counter_ns()
            work()
            times.append(time.perf_counter_ns() - began)
    return statistics.median(taken[traced]) / statistics.median(taken[untraced]) - 1


def test_an_invoke_costs_a_few_times_the_chain_at_most(make_tracer: MakeTracer, store_uri: str) -> None:
    measured, config = chain(), RunnableConfig(callbacks=[make_tracer(store_uri, forwarder="none")])
    more = added(lambda: measured.invoke(question()), lambda: measured.invoke(question(), config))
    assert more < TIMES


def test_a_stream_costs_a_few_times_the_chain_at_most(make_tracer: MakeTracer, store_uri: str) -> None:
    measured = chain(tokens=100)
    config = RunnableConfig(callbacks=[make_tracer(store_uri, forwarder="none")])
    more = added(lambda: list(measured.stream(question())), lambda: list(measured.stream(question(), config)))
    assert more < TIMES
