"""Guards of the hot path: wide, and relative to an empty handler in the same run (see `benchmarks/cost`).

Not with xdist, under which nothing is measured: `scripts/test` runs these by themselves.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from langchain_core.runnables import RunnableConfig
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cost.contestants import EmptyHandler
from benchmarks.cost.loads import agent, chain, question, task
from langchain_mlflow_tracer import MlflowTracer
from tests.conftest import MakeTracer

TIMES: Final = 2.5
"""How many times as long as with an empty handler a run may take at most: measured are 1.2 to 1.6."""

SHORT, LONG = chain(), chain(tokens=100)

Run = Callable[[RunnableConfig], object]

RUNS: Final[dict[str, tuple[Run, int]]] = {
    "an invoke": (lambda config: SHORT.invoke(question(), config), 200),
    "a stream of 100 tokens": (lambda config: list(LONG.stream(question(), config)), 40),
    "an invoke of 200 kB": (lambda config: SHORT.invoke(question(200_000), config), 60),
    "an agent of 10 rounds": (lambda config: agent(10).invoke(task(), config), 8),
}
"""What is run, and how often."""


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> Iterator[MlflowTracer]:
    made = make_tracer(store_uri, forwarder="none")
    yield made
    made.close()


@pytest.mark.parametrize("name", RUNS)
def test_a_traced_run_takes_little_longer_than_a_run_with_an_empty_handler(
    name: str, tracer: MlflowTracer, benchmark: BenchmarkFixture
) -> None:
    run, rounds = RUNS[name]
    with_nothing, with_tracer = (RunnableConfig(callbacks=[one]) for one in (EmptyHandler(), tracer))
    floors: list[float] = []

    def floor() -> tuple[tuple[RunnableConfig], dict[str, object]]:
        """Measure both in turn, so that both have the same of what else the machine is at."""
        floors.append(timeit.timeit(lambda: run(with_nothing), number=1))
        return (with_tracer,), {}

    benchmark.pedantic(run, setup=floor, rounds=rounds, warmup_rounds=5)  # type: ignore[no-untyped-call]

    assert benchmark.stats is not None, "nothing was measured: run these tests without xdist"
    assert benchmark.stats.stats.median < TIMES * statistics.median(floors)
