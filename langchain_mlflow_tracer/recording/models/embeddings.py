"""Reads calls of embedding models off the wire: what was asked, what came back, and whose run they are of.

LangChain's embeddings have no callbacks (langchain-core 1.7): the request is all there is to see. The vectors
themselves are never kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol, cast
from uuid import UUID

import orjson
from langchain_core.runnables.config import ensure_config, get_callback_manager_for_config

from langchain_mlflow_tracer.core.attributes import (
    AZURE_DEPLOYMENT,
    CHAT_TOKEN_USAGE,
    LLM_MODEL,
    LLM_PROVIDER,
    REQUEST_MODEL,
    RESPONSE_MODEL,
)
from langchain_mlflow_tracer.recording.models.attempts import Seen

__all__ = ["Answered", "Asked", "Tracer", "answered", "asked", "begin_retriever", "listeners"]

MAX_VALUE: Final = 4_096
"""Bytes in which the end of a small value is looked for: a model's name, a usage."""

BYTES_PER_FLOAT: Final = 4
"""Of a vector in base64, as the OpenAI SDK asks for them."""

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)/")
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*\})')
_VECTOR: Final = re.compile(rb'"embedding"\s*:\s*(["\[])')


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for vectors: its texts, how many, and what a person searches it by."""

    inputs: object
    count: int
    attributes: dict[str, object]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back, without the vectors."""

    outputs: dict[str, object]
    attributes: dict[str, object]


class Tracer(Protocol):
    """Records calls of embedding models."""

    @property
    def ignore_llm(self) -> bool:
        """Whether nothing of models shall be heard."""

    def on_embedding_start(
        self,
        asked: Asked,
        *,
        run_id: UUID,
        parent_run_ids: Sequence[UUID],
        retry: dict[str, object] | None = None,
    ) -> None:
        """Start a call below the innermost of the parents, or `retry` one that failed."""

    def on_embedding_end(self, answered: Answered, seen: Seen, *, run_id: UUID) -> None:
        """End a call."""

    def on_embedding_error(self, error: BaseException | None, seen: Seen, *, run_id: UUID) -> None:
        """Fail a call, by an exception or by an answer that is an error."""

    def is_open(self, run_id: UUID) -> bool:
        """Whether this run has not ended."""


current_retrievers: ContextVar[tuple[tuple[Tracer, UUID], ...]] = ContextVar("retrievers", default=())
"""The retrievers that run in this context: LangChain does not name them to what they call."""


def begin_retriever(tracer: Tracer, run_id: UUID) -> None:
    """Make a retriever's run known to this thread or task: embeddings called from now on are its children."""
    current_retrievers.set((*_open(current_retrievers.get()), (tracer, _copied(run_id))))


def listeners() -> list[tuple[Tracer, list[UUID]]]:
    """Return who records what is embedded here and now, each with the runs in which it happens.

    A retriever that runs counts, and the run that LangChain's own context names. Outside of any run it is
    the tracers that LangChain would give a new chain: those that are installed.
    """
    retrievers = _open(current_retrievers.get())
    manager = get_callback_manager_for_config(ensure_config())
    parent = manager.parent_run_id
    found: dict[int, tuple[Tracer, list[UUID]]] = {}
    if parent is not None or not retrievers:
        for handler in manager.handlers:
            if hasattr(handler, "on_embedding_start") and not handler.ignore_llm:
                found[id(handler)] = (cast("Tracer", handler), [] if parent is None else [_copied(parent)])
    for tracer, run_id in retrievers:
        found.setdefault(id(tracer), (tracer, []))[1].append(run_id)
    return list(found.values())


def _copied(run_id: UUID) -> UUID:
    """Another object that says the same: while the id itself is held, its run does not count as let go of."""
    return UUID(int=run_id.int)


def _open(retrievers: Iterable[tuple[Tracer, UUID]]) -> list[tuple[Tracer, UUID]]:
    return [(tracer, run_id) for tracer, run_id in retrievers if tracer.is_open(run_id)]


def asked(path: str, content: bytes) -> Asked:
    """Read a request; where tokens were sent instead of texts, only their number is kept."""
    body = orjson.loads(content)
    sent = body.get("input")
    inputs = sent if isinstance(sent, list) and not _is_tokens(sent) else [sent]
    deployment = _DEPLOYMENT.search(path)
    requested = deployment[1] if deployment else body.get("model")
    on_azure = "/openai/" in path
    named = {
        LLM_PROVIDER: "azure" if on_azure else "openai",
        REQUEST_MODEL: requested,
        AZURE_DEPLOYMENT: requested if on_azure else None,
        "lc.embedding.count": len(inputs),
    }
    shown = [_shown(text) for text in inputs]
    return Asked(
        {"input": shown[0] if inputs is not sent else shown},
        len(inputs),
        {key: value for key, value in named.items() if isinstance(value, str | int)},
    )


def _is_tokens(sent: object) -> bool:
    return isinstance(sent, list) and bool(sent) and isinstance(sent[0], int)


def _shown(text: object) -> object:
    return {"tokens": len(text)} if isinstance(text, list) else text


def answered(content: bytes, count: int) -> Answered:
    """Read an answer, whose bulk are vectors: what is small is looked for, they are not parsed."""
    usage = _usage(content)
    dimensions = _dimensions(content)
    model = _first_or_last(_MODEL, content)
    outputs: dict[str, object] = {"count": count, "dimensions": dimensions, "usage": usage}
    tokens = usage.get("prompt_tokens") if usage else None
    served = model[1].decode(errors="replace") if model else None
    named: dict[str, object | None] = {
        LLM_MODEL: served,
        RESPONSE_MODEL: served,
        "gen_ai.embeddings.dimension.count": dimensions,
        CHAT_TOKEN_USAGE: {
            "input_tokens": tokens,
            "output_tokens": 0,
            "total_tokens": tokens,
        } if isinstance(tokens, int) else None,
    }  # fmt: skip
    return Answered(
        {key: value for key, value in outputs.items() if value is not None},
        {key: value for key, value in named.items() if value is not None},
    )


def _first_or_last(pattern: re.Pattern[bytes], content: bytes) -> re.Match[bytes] | None:
    """Find a value before the vectors or after them."""
    return pattern.search(content[:MAX_VALUE]) or pattern.search(content[-MAX_VALUE:])


def _usage(content: bytes) -> dict[str, int] | None:
    found = _first_or_last(_USAGE, content)
    told: Mapping[str, object] = orjson.loads(found[1]) if found else {}
    return {key: value for key, value in told.items() if isinstance(value, int)} or None


def _dimensions(content: bytes) -> int | None:
    """Measure the first vector, base64 or a list of numbers."""
    found = _VECTOR.search(content[:MAX_VALUE])
    if found is None:
        return None
    begin = found.end()
    if found[1] == b"[":
        end = content.find(b"]", begin)
        return content.count(b",", begin, end) + 1 if end > begin else None
    end = content.find(b'"', begin)
    packed = content[max(begin, end - 2) : end].count(b"=")
    return ((end - begin) // 4 * 3 - packed) // BYTES_PER_FLOAT if end > begin else None
