"""An application that mixes chains with MLflow's own spans: `python -m tests.support.mixed_application`.

Its argument is JSON, the parameters of `main`. Prints one line of JSON when its main job is done.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import mlflow
import mlflow.openai
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI

from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing
from tests.support.mixing import State, doubled, graph

__all__ = ["HARVESTED", "ROOTED"]

Job = Callable[[], Coroutine[Any, Any, None] | None]


@mlflow.trace(span_type="TOOL")
def add(number: int) -> int:
    return number + 1


@mlflow.trace
async def wait(number: int) -> int:
    await asyncio.sleep(0)
    return add(number)


@mlflow.trace
def count_up(number: int) -> Iterator[int]:
    yield from (number, add(number))


@mlflow.trace
async def count_up_later(number: int) -> AsyncIterator[int]:
    yield await wait(number)
    yield number


@tool
def adding(number: int) -> int:
    """Add one."""
    with mlflow.start_span("inside"):
        return add(number)


class Application:
    """Everything that it does, once, with one tracer and one model."""

    def __init__(self, tracer: MlflowTracer, model: AzureChatOpenAI) -> None:
        self.tracer = tracer
        self.model = model
        self.config: RunnableConfig = {"callbacks": [tracer]}

    def named(self, name: str) -> RunnableConfig:
        return {**self.config, "run_name": name}

    # Chains, in which MLflow makes spans.

    def chain(self) -> None:
        inside = RunnableLambda[Any, Any](lambda number: {"number": sum(count_up(number))})
        (inside | adding).invoke(1, self.named("chain"))

    async def chain_later(self) -> None:
        async def work(number: int) -> int:
            return sum([one async for one in count_up_later(number)])

        await RunnableLambda(work).ainvoke(1, self.named("chain_later"))

    def graph(self) -> None:
        def work(state: State) -> State:
            mlflow.update_current_trace(tags={"color": "red"})
            self.model.invoke("hello")
            return {"number": adding.invoke({"number": state["number"]})}

        graph(work).invoke({"number": 1}, self.named("graph"))

    async def graph_later(self) -> None:
        async def work(state: State) -> State:
            await self.model.ainvoke("hello")
            return {"number": await wait(state["number"])}

        await graph(work).ainvoke({"number": 1}, self.named("graph_later"))

    # Traces that begin in MLflow.

    def function(self) -> None:
        mlflow.trace(lambda: doubled().invoke(add(1), self.config), name="function")()

    def generator(self) -> None:
        list(count_up(1))

    async def coroutine(self) -> None:
        await wait(1)

    async def generator_later(self) -> None:
        async for number in count_up_later(1):
            await doubled().ainvoke(number, self.config)

    def span(self) -> None:
        with mlflow.start_span("span"):
            doubled().batch([1, 2], self.config)


HARVESTED = ["chain", "chain_later", "graph", "graph_later"]
"""What it does with chains around MLflow's spans."""

ROOTED = ["function", "generator", "coroutine", "generator_later", "span"]
"""What it does with MLflow's spans around chains."""


def main(settings: dict[str, Any], uri: str, model: dict[str, Any], does: list[str], times: int = 2) -> None:
    """Do everything `times` over, and say how long the slowest one took after the first time."""
    mlflow.set_tracking_uri(uri)
    mlflow.openai.autolog()
    tracer = MlflowTracer(**settings)
    if set(does) & set(ROOTED):
        protect_mlflow_tracing(tracer)
    application = Application(tracer, AzureChatOpenAI(**model))
    jobs: list[Job] = [getattr(application, name) for name in does]
    with asyncio.Runner() as runner:
        took = [timed(job, runner) for _ in range(times) for job in jobs]
    print(json.dumps({"done": time.time(), "slowest": max(took[len(jobs) :])}), flush=True)


def timed(job: Job, runner: asyncio.Runner) -> float:
    """Return the seconds that a job takes."""
    began = time.perf_counter()
    waiting = job()
    if waiting is not None:
        runner.run(waiting)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
