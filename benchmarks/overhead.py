"""Measures what the tracer adds to an invoke of `prompt | model | parser`, beside an untraced one.

    python benchmarks/overhead.py [--invokes 200] [--rounds 40] [--tracking-uri URI]

The model is LangChain's fake one, so that no network hides the difference. Untraced chains, chains with an
empty handler and traced chains take turns, in short rounds, and what a round adds is taken against the
untraced chain of the same round: machines are shared, and drift. Figures are medians over the rounds. The
tracer delivers for real meanwhile, by default into an embedded store.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from langchain_mlflow_tracer import MlflowTracer

Chain = Runnable[dict[str, str], str]

BUDGET_US = 250.0
"""Microseconds that the tracer may add to an invoke at p50."""


WARM_UP = 20
"""Invokes before each turn that are not counted: the turn before left its own things in the caches."""


class EmptyHandler(BaseCallbackHandler):
    """Hears nothing: what LangChain itself takes to call a handler."""

    run_inline = True


def chain() -> Chain:
    """Return the chain that is measured."""
    prompt = ChatPromptTemplate.from_messages([("system", "You are terse."), ("user", "{question}")])
    return prompt | FakeListChatModel(responses=["Paris is the capital of France."]) | StrOutputParser()


def timed(invoke: Callable[[], object], count: int) -> list[float]:
    """Return the microseconds that each of `count` calls took."""
    taken = []
    for _ in range(count):
        began = time.perf_counter_ns()
        invoke()
        taken.append((time.perf_counter_ns() - began) / 1000)
    return taken


def measure(
    handlers: dict[str, list[BaseCallbackHandler]], invokes: int, rounds: int
) -> dict[str, list[list[float]]]:
    """Let each kind of handler have its turn in every round; return the times by kind and round."""
    measured = chain()
    question = {"question": "What is the capital of France?"}
    times: dict[str, list[list[float]]] = {name: [] for name in handlers}
    for _ in range(rounds):
        for name, callbacks in handlers.items():
            invoke = functools.partial(measured.invoke, question, {"callbacks": callbacks})
            timed(invoke, WARM_UP)
            times[name].append(timed(invoke, invokes))
    return times


def quantile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def report(times: dict[str, list[list[float]]]) -> float:
    """Print the table; return what the tracer adds at p50, in microseconds."""
    base = [statistics.median(one) for one in times["untraced"]]
    print(f"{'':<16}{'p50 µs':>10}{'p99 µs':>10}{'added p50':>12}{'quartiles':>18}{'ratio':>8}")
    added = {}
    for name, rounds in times.items():
        medians = [statistics.median(one) for one in rounds]
        differences = [mine - theirs for mine, theirs in zip(medians, base, strict=True)]
        added[name] = statistics.median(differences)
        tail = statistics.median(quantile(one, 0.99) for one in rounds)
        spread = f"{quantile(differences, 0.25):.0f} to {quantile(differences, 0.75):.0f}"
        ratio = statistics.median(mine / theirs for mine, theirs in zip(medians, base, strict=True))
        figures = f"{statistics.median(medians):>10.0f}{tail:>10.0f}{added[name]:>12.0f}"
        print(f"{name:<16}{figures}{spread:>18}{ratio:>8.2f}")
    return added["tracer"]


def main() -> int:
    """Measure and print; exit 1 when the budget is exceeded."""
    raw = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    options.add_argument("--invokes", type=int, default=200, help="a round of each kind")
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--tracking-uri", help="default: a new sqlite store in a temporary folder")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = chosen.tracking_uri or f"sqlite:///{folder}/mlflow.db"
        with MlflowTracer(uri, spool_dir=Path(folder) / "spool") as tracer:
            handlers: dict[str, list[BaseCallbackHandler]] = {
                "untraced": [],
                "empty handler": [EmptyHandler()],
                "tracer": [tracer],
            }
            measure(handlers, 50, 1)  # the first invokes pay for imports
            tracer.flush(120.0)
            added = report(measure(handlers, chosen.invokes, chosen.rounds))
            stats = tracer.stats()
            print(f"traces recorded: {stats['recorded']}, dropped: {sum(stats['dropped'].values())}")
    versions = f"langchain-core {version('langchain-core')}, mlflow {version('mlflow')}"
    print(f"Python {platform.python_version()}, {versions}")
    verdict = "ok" if added <= BUDGET_US else "EXCEEDED"
    print(f"added at p50: {added:.0f} µs, budget {BUDGET_US:.0f} µs: {verdict}")
    return 0 if added <= BUDGET_US else 1


if __name__ == "__main__":
    raise SystemExit(main())
