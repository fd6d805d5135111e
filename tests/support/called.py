"""A service that another one calls, in a process of its own: `python -m tests.support.called`.

Its argument is JSON, the parameters of `main`. Prints its address when it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypedDict

import uvicorn
from fastapi import FastAPI, Request
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_openai import AzureChatOpenAI
from langgraph.graph import END, START, StateGraph
from opentelemetry import context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from langchain_mlflow_tracer import MlflowTracer, join_trace

__all__ = ["Service", "service"]

ROOT = Path(__file__).resolve().parents[2]

Headers = Mapping[str, str]


def by_mlflow(headers: Headers) -> AbstractContextManager[object]:
    """Join by MLflow's own function."""
    from mlflow.tracing import set_tracing_context_from_http_request_headers  # noqa: PLC0415 - heavy

    joined: AbstractContextManager[object] = set_tracing_context_from_http_request_headers(dict(headers))
    return joined


@contextlib.contextmanager
def by_opentelemetry(headers: Headers) -> Iterator[None]:
    """Make what came with the headers current, as an instrumented web framework does without an SDK."""
    token = context.attach(TraceContextTextMapPropagator().extract(headers))
    try:
        yield
    finally:
        context.detach(token)


@contextlib.contextmanager
def by_instrumentation(headers: Headers) -> Iterator[None]:
    """Make a span as an instrumented web framework does where there is an SDK that delivers elsewhere."""
    around = TraceContextTextMapPropagator().extract(headers)
    with PROVIDER.get_tracer("framework").start_as_current_span("POST", around):
        yield


PROVIDER = TracerProvider()
"""The application's own, which has nothing to do with MLflow."""

JOINS: Mapping[str, Callable[[Headers], AbstractContextManager[object]]] = {
    "join_trace": join_trace,
    "mlflow": by_mlflow,
    "opentelemetry": by_opentelemetry,
    "instrumentation": by_instrumentation,
}
"""How a service joins the trace of who calls it."""


class State(TypedDict):
    """What the graph works on."""

    question: str
    answer: str


def lcel(model: AzureChatOpenAI) -> Runnable[Any, Any]:
    """Return a chain."""
    return ChatPromptTemplate.from_template("{question}") | model | StrOutputParser()


def graph(model: AzureChatOpenAI) -> Runnable[Any, Any]:
    """Return a graph of one node."""

    def respond(state: State) -> dict[str, str]:
        return {"answer": str(model.invoke(state["question"]).content)}

    made = StateGraph(State).add_node(respond).add_edge(START, "respond").add_edge("respond", END)
    return made.compile()


KINDS = {"lcel": lcel, "graph": graph}


def create_app(tracer: MlflowTracer, model: AzureChatOpenAI) -> FastAPI:
    """Make the service; the path of a request selects how it joins a trace, and what it runs."""
    app = FastAPI()
    chains = {name: make(model).with_config(run_name="served") for name, make in KINDS.items()}
    config: Any = {"callbacks": [tracer], "metadata": {"thread_id": "of the called", "shard": "7"}}

    @app.post("/sync/{join}/{kind}")
    def answer(join: str, kind: str, request: Request) -> str | None:
        with JOINS[join](request.headers):
            chains[kind].invoke({"question": "Where?"}, config)
        return tracer.last_trace_id

    @app.post("/async/{join}/{kind}")
    async def answer_soon(join: str, kind: str, request: Request) -> str | None:
        with JOINS[join](request.headers):
            await chains[kind].ainvoke({"question": "Where?"}, config)
        return tracer.last_trace_id

    @app.post("/flush")
    async def flush() -> bool:
        return await tracer.aflush(60)

    @app.get("/stats")
    def stats() -> dict[str, Any]:
        return {**tracer.stats(), "knows_mlflow": "mlflow" in sys.modules}

    return app


def main(settings: dict[str, Any], azure: dict[str, str], *, uses_mlflow: bool = False) -> None:
    """Serve until a signal ends it.

    Args:
        settings: the tracer's.
        azure: what the model is told.
        uses_mlflow: whether the application imports mlflow itself.
    """
    if uses_mlflow:
        import mlflow  # noqa: PLC0415 - as an application would

        mlflow.get_tracking_uri()
    model = AzureChatOpenAI(**azure)  # type: ignore[arg-type]  # what the emulator says that it needs
    with MlflowTracer(**settings) as tracer:
        listener = socket.create_server(("127.0.0.1", 0))
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        server = uvicorn.Server(uvicorn.Config(create_app(tracer, model), log_level="warning"))
        asyncio.run(server.serve(sockets=[listener]))


class Service:
    """Such a process, for who started it."""

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str], **told: Any) -> None:
        arguments = json.dumps({"settings": settings, **told}, default=str)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.called", arguments],
            cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "it did not start"

    def kill(self) -> None:
        """End it this moment."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as an operator does."""
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill()


@contextlib.contextmanager
def service(
    settings: Mapping[str, Any], environ: Mapping[str, str] | None = None, **told: Any
) -> Iterator[Service]:
    """Run such a service until the block ends."""
    running = Service(settings, environ or {}, **told)
    try:
        yield running
    finally:
        running.stop()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
