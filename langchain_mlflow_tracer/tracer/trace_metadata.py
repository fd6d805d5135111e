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

# How the tags and metadata begin that LangChain and LangGraph add themselves; the others are the user's.
_INTERNAL_TAGS: Final = ("seq:step:", "graph:step:", "map:key:", "langsmith:", "retry:attempt:")
_INTERNAL_METADATA: Final = ("ls_", "lc_", "langgraph_", "checkpoint_", "__")


def describe(
    trace: TraceRecord, settings: Settings, tags: Sequence[str], metadata: Mapping[str, object]
) -> None:
    """Fill session, user, tags and metadata of a new trace."""
    if not metadata and not tags:
        trace.session_id, trace.user_id = settings.session_id, settings.user_id
        trace.tags, trace.metadata = dict(settings.tags), dict(settings.metadata)
        return
    texts = {str(key): _text(value) for key, value in metadata.items() if value is not None}
    trace.session_id = _session(texts) or settings.session_id
    trace.user_id = texts.get("user_id") or settings.user_id
    trace.tags = {**settings.tags, **_user_tags(tags)}
    trace.metadata = {**settings.metadata, **_user_metadata(texts)}


def _session(texts: Mapping[str, str]) -> str | None:
    return next((texts[key] for key in _SESSION_KEYS if texts.get(key)), None)


def _user_tags(tags: Sequence[str]) -> dict[str, str]:
    return {tag: "true" for tag in map(str, tags) if not tag.startswith(_INTERNAL_TAGS)}


def _user_metadata(texts: Mapping[str, str]) -> dict[str, str]:
    return {
        key: text
        for key, text in texts.items()
        if key not in _NAMED_KEYS and not key.startswith(_INTERNAL_METADATA)
    }


def _text(value: object) -> str:
    return attempt(lambda: str(value), lambda _: f"<{type(value).__name__}>")
