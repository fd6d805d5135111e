"""Measures what the bridge to MLflow's own spans costs a chain that makes none.

    python -m benchmarks.bridge

Two tracers record the same chain in turn, where mlflow is imported: one as it is, one that does not join.
The median of what the one takes more than the other right beside it, by span, is what the bridge costs: a
difference of two medians would tell also how busy the machine was. Exits with 1 if it is beyond `MOST`.
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
"""Microseconds that the bridge may cost a span where nobody makes spans with MLflow."""

SPANS: Final = 4
"""A sequence, its prompt, its model and its parser."""

ROUNDS: Final = 5_000

WARM_UP: Final = 100
"""Rounds before it counts: the first imports what the others use."""


def cost(rounds: int = ROUNDS) -> float:
    """Return the microseconds that the bridge costs each span of a small chain."""
    importlib.import_module("mlflow")
    with tempfile.TemporaryDirectory() as folder:
        joined, cut = (_tracer(Path(folder) / name) for name in ("joined", "cut"))
        cut._is_cut = True  # noqa: SLF001 - as if mlflow were not known
        chain = _chain()
        turns = [(joined, cut), (cut, joined)]  # who comes second finds what the first has left in the caches
        more = []
        gc.disable()  # its pauses are as long as all that is measured
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
