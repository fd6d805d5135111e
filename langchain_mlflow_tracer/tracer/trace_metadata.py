"""Session, user, tags and metadata of a new trace: from the config of its root, else from the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.prompts import KEY
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.settings.settings import Settings

__all__ = ["describe"]

_SESSION_KEYS: Final = ("session_id", "thread_id", "conversation_id")
_NAMED_KEYS: Final = frozenset({*_SESSION_KEYS, "user_id", KEY})

# What LangChain and LangGraph write into a run's tags and metadata themselves; the rest is the users'.
_INTERNAL_TAGS: Final = ("seq:step:", "graph:step:", "map:key:", "langsmith:", "retry:attempt:")
_INTERNAL_METADATA: Final = ("ls_", "lc_", "langgraph_", "checkpoint_", "__")


def describe(
    trace: TraceRecord, settings: Settings, tags: Sequence[str], metadata: Mapping[str, object]
) -> None:
    """Say of a new trace what its root's config knows, and the settings where that says nothing."""
    if not metadata and not tags:
        trace.session_id, trace.user_id = settings.session_id, settings.user_id
        trace.tags, trace.metadata = dict(settings.tags), dict(settings.metadata)
        return
    known = {str(key): _text(value) for key, value in metadata.items() if value is not None}
    session = next((known[key] for key in _SESSION_KEYS if known.get(key)), None)
    trace.session_id = session or settings.session_id
    trace.user_id = known.get("user_id") or settings.user_id
    named = [tag for tag in map(str, tags) if not tag.startswith(_INTERNAL_TAGS)]
    trace.tags = {**settings.tags, **dict.fromkeys(named, "true")}
    own = {
        key: item
        for key, item in known.items()
        if key not in _NAMED_KEYS and not key.startswith(_INTERNAL_METADATA)
    }
    trace.metadata = {**settings.metadata, **own}


def _text(value: object) -> str:
    return attempt(lambda: str(value), lambda _: f"<{type(value).__name__}>")
