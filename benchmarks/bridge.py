"""Measures the cost of the bridge to MLflow's own spans for a chain that creates no such spans.

    python -m benchmarks.bridge

mlflow is imported, and two tracers record the same chain in turn: one with the bridge, one without it. The
cost of the bridge is the median of the differences between neighbouring runs, divided by the number of spans.
(A difference of two medians would also depend on the load of the machine.) Exits with 1 if it exceeds `MOST`.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from langchain_mlflow_tracer import MlflowTracer

__all__ = ["MOST", "cost"]

MOST: Final = 4.0
"""Microseconds that the bridge may cost for each span, if the application creates no spans with MLflow."""

SPANS: Final = 4
"""A sequence, its prompt, its model and its parser."""

ROUNDS: Final = 5_000

WARM_UP: Final = 100
"""Rounds that are not counted: the first one imports modules that the others use."""


def cost(rounds: int = ROUNDS) -> float:
    """Return the cost of the bridge for each span of a small chain, in microseconds."""
    importlib.import_module("mlflow")
    with tempfile.TemporaryDirectory() as folder:
        joined, cut = (_tracer(Path(folder) / name) for name in ("joined", "cut"))
        cut._neighbours._is_cut = True  # noqa: SLF001 - as if mlflow were not imported
        chain = _chain()
        turns = [
            (joined, cut),
            (cut, joined),
        ]  # the second one finds warm CPU caches, so the order alternates
        more = []
        gc.disable()  # a pause would be as long as the measured time
        for number in range(WARM_UP + rounds):
            taken = {tracer: _timed(chain, tracer) for tracer in turns[number % 2]}
            more.append(taken[joined] - taken[cut])
        gc.enable()
        for tracer in (joined, cut):
            tracer.close(timeout=0.1)
    return statistics.median(more[WARM_UP:]) / SPANS / 1e3


def _timed(chain: Runnable[Any, str], tracer: MlflowTracer) -> int:
    began = time.perf_counter_ns()
    chain.invoke({"question": "why?"}, {"callbacks": [tracer]})
    return time.perf_counter_ns() - began


def _tracer(folder: Path) -> MlflowTracer:
    return MlflowTracer("http://127.0.0.1:1", forwarder="none", spool_dir=folder)


def _chain() -> Runnable[Any, str]:
    prompt = ChatPromptTemplate.from_template("{question}")
    return prompt | FakeListChatModel(responses=["because"]) | StrOutputParser()


if __name__ == "__main__":
    measured = cost()
    print(f"the bridge costs {measured:.2f} µs a span; {MOST} are allowed")
    sys.exit(measured > MOST)
