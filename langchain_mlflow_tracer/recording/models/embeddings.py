"""Describes calls of embedding models, and finds the tracers that record those of this context.

LangChain's embeddings have no callbacks (langchain-core 1.7), so the HTTP client reports them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from langchain_core.runnables.config import ensure_config, get_callback_manager_for_config

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.recording.models.attempts import Attempts

__all__ = ["EmbeddingAnswer", "EmbeddingRequest", "Listener", "begin_retriever", "listeners"]


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request for vectors: its texts, their number, and the attributes that it names."""

    inputs: object
    count: int
    attributes: dict[str, object]


@dataclass(frozen=True, slots=True)
class EmbeddingAnswer:
    """The answer without the vectors."""

    outputs: dict[str, object]
    attributes: dict[str, object]


class Listener(Protocol):
    """Records the embedding calls of one tracer."""

    @property
    def log(self) -> Log:
        """The tracer's log lines and counters."""

    def start(
        self,
        request: EmbeddingRequest,
        run_id: UUID,
        parent_run_ids: Sequence[UUID],
        retry: dict[str, object] | None,
    ) -> None:
        """Start a call below the innermost of the parents, or `retry` one that failed."""

    def end(self, answer: EmbeddingAnswer, attempts: Attempts, run_id: UUID) -> None:
        """End a call."""

    def fail(self, error: BaseException | None, attempts: Attempts, run_id: UUID) -> None:
        """Fail a call, by an exception or by an answer that is an error."""

    def is_open(self, run_id: UUID) -> bool:
        """Whether this run has not ended."""


current_retrievers: ContextVar[tuple[tuple[Listener, UUID], ...]] = ContextVar("retrievers", default=())
"""The retrievers that run in this context: LangChain does not name them to what they call."""


def begin_retriever(listener: Listener, run_id: UUID) -> None:
    """Make a retriever's run known to this thread or task: embeddings called from now on are its children."""
    current_retrievers.set((*_open(current_retrievers.get()), (listener, _copied(run_id))))


def listeners() -> list[tuple[Listener, list[UUID]]]:
    """Return the listeners of this context, each with the runs that an embedding call is inside of.

    These are the open retrievers, and the run that LangChain's own context names. Outside of any run they are
    the tracers that LangChain would pass to a new chain: those that are installed.
    """
    # Retrievers that have ended may still be in the context: a context is not cleared when a run ends.
    retrievers = _open(current_retrievers.get())
    manager = get_callback_manager_for_config(ensure_config())
    parent = manager.parent_run_id
    parents: dict[int, tuple[Listener, list[UUID]]] = {}
    if parent is not None or not retrievers:
        for handler in manager.handlers:
            listener: Listener | None = getattr(handler, "embedding_spans", None)
            if listener is not None and not handler.ignore_llm:
                parents[id(listener)] = (listener, [] if parent is None else [_copied(parent)])
    for listener, run_id in retrievers:
        parents.setdefault(id(listener), (listener, []))[1].append(run_id)
    return list(parents.values())


def _copied(run_id: UUID) -> UUID:
    """Return an equal id: the object itself must not be held, or its run would never count as lost."""
    return UUID(int=run_id.int)


def _open(retrievers: Iterable[tuple[Listener, UUID]]) -> list[tuple[Listener, UUID]]:
    return [(listener, run_id) for listener, run_id in retrievers if listener.is_open(run_id)]
