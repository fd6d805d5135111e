"""Carries the context of whoever submits work into the threads of a pool, so that what runs there nests."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

from langchain_mlflow_tracer.core.errors import ConfigurationError

__all__ = ["wrap_executor"]

P = ParamSpec("P")
T = TypeVar("T")


def wrap_executor(executor: Executor) -> Executor:
    """Return a pool that runs what it is given in `executor`, each time in a copy of the submitter's context.

    A thread has no context of its own: a chain, or a span of MLflow's, that is started on one by a plain
    `ThreadPoolExecutor` begins a trace of its own. Through the returned pool it nests where it was submitted:
    in a `@mlflow.trace` function, a tool, a node. All context variables are carried, to `submit` and `map`;
    nothing of them is left on the thread. To shut one down shuts down both, and so does the end of a `with`.

    Raises:
        ConfigurationError: `executor` runs things in other processes, where no context can be brought. There
            `join_trace` joins a trace, with what `MlflowTracer.tracing_headers` returned here.
    """
    if isinstance(executor, ProcessPoolExecutor):
        raise ConfigurationError(
            "executor", executor, "a pool of threads is expected; for other processes there is join_trace"
        )
    return _ContextExecutor(executor)


class _ContextExecutor(Executor):
    """Submits to another executor; `map` is inherited, and submits too."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn` in a copy of the context in which this is called: no two threads may share one."""
        context = contextvars.copy_context()

        def run() -> T:
            return context.run(fn, *args, **kwargs)

        return self._executor.submit(run)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Shut the other executor down."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)
