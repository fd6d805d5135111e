"""Numbers the attempts of fallbacks, and gives attempts of `with_fallbacks` their true parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from langchain_mlflow_tracer.core.attributes import AZURE_DEPLOYMENT, REQUEST_MODEL
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording.run_info import named_parent

__all__ = ["FALLBACKS", "Fallbacks"]

FALLBACKS: Final = "RunnableWithFallbacks"
"""The name of the run in which `with_fallbacks` makes its attempts, unless it was given another."""

NUMBER: Final = "lc.fallback"


class Fallbacks:
    """The fallbacks of one tracer. Its two functions are the recorder's, by run id."""

    __slots__ = ("_failed_below", "_find", "are_used")

    def __init__(
        self,
        find: Callable[[int], tuple[SpanRecord, TraceRecord] | None],
        failed_below: Callable[[int], tuple[str, Sequence[SpanRecord]]],
    ) -> None:
        """`find` returns an open run, `failed_below` a run's name and the failed runs right below it."""
        self._find = find
        self._failed_below = failed_below
        self.are_used = False
        """Whether a run of `with_fallbacks` ever started: until then the runs need not be looked up."""

    def parent(self, reported: int | None) -> int | None:
        """Return the parent of a run that starts: the reported one, or the run of `with_fallbacks`.

        `invoke` and `ainvoke` of that one report its own parent as the parent of their attempts
        (langchain-core 1.7), but LangChain's context names the true one.
        """
        self.are_used = True
        named = named_parent()
        if named is None or named.int == reported:
            return reported
        span = self._span(named.int)
        is_skipped = span is not None and span.name == FALLBACKS and span.parent_id == self._span_id(reported)
        return named.int if is_skipped else reported

    def _span(self, run_id: int | None) -> SpanRecord | None:
        run = None if run_id is None else self._find(run_id)
        return None if run is None else run[0]

    def _span_id(self, run_id: int | None) -> bytes | None:
        span = self._span(run_id)
        return None if span is None else span.span_id

    def number(self, span: SpanRecord, parent: int | None) -> None:
        """Number a run of `with_fallbacks` by the attempts that failed before it."""
        if parent is not None:
            name, failed = self._failed_below(parent)
            if name == FALLBACKS and failed:
                span.attributes[NUMBER] = len(failed)

    def number_model(self, span: SpanRecord, parent: int, metadata: Mapping[str, object]) -> None:
        """Number a model that a node of a graph calls after other models failed there.

        That is what an agent's ModelFallbackMiddleware does (langchain 1.4); the same model again is a retry.
        """
        name, failed = self._failed_below(parent)
        if not failed or name != metadata.get("langgraph_node"):
            return
        span.run_deferred()  # it sets the attribute that names the model
        others = {_requested_model(other) for other in failed if other.span_type == "CHAT_MODEL"}
        if others and _requested_model(span) not in others:
            span.attributes[NUMBER] = len(others)


def _requested_model(span: SpanRecord) -> object:
    """Return what was asked for: a deployment on Azure, else a model."""
    return span.attributes.get(AZURE_DEPLOYMENT) or span.attributes.get(REQUEST_MODEL)
