"""Reads what LangChain says of a run beside its content: its name, its type, and its trace's facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_mlflow_tracer.foreign import attempt
from langchain_mlflow_tracer.record import TraceRecord
from langchain_mlflow_tracer.settings import Settings

__all__ = ["chain_attributes", "chain_type", "describe", "name"]

_SESSION_KEYS: Final = ("session_id", "thread_id", "conversation_id")
_NAMED_KEYS: Final = frozenset({*_SESSION_KEYS, "user_id"})

# What LangChain and LangGraph write into a run's tags and metadata themselves; the rest is the users'.
_INTERNAL_TAGS: Final = ("seq:step:", "graph:step:", "map:key:", "langsmith:", "retry:attempt:")
_INTERNAL_METADATA: Final = ("ls_", "lc_", "langgraph_", "checkpoint_", "__")

_STEP: Final = "graph:step:"
"""The tag of a node's run, before the number of the step (langgraph 1.2)."""

_AGENT_INTEGRATION: Final = "langchain_create_agent"
"""The `ls_integration` of what `langchain.agents.create_agent` makes (langchain 1.4)."""


def name(serialized: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> str:
    """Return the run's name, as LangChain gives it, else the class that was run."""
    if kwargs.get("name"):
        return str(kwargs["name"])
    described = serialized or {}
    path = described.get("id") or ["run"]
    return str(described.get("name") or path[-1])


def chain_type(name: str, run_type: object, tags: Sequence[str], metadata: Mapping[str, Any]) -> str:
    """Return AGENT for what `create_agent` made, PARSER for parsers, CHAIN for everything else."""
    if run_type is not None or metadata.get("ls_integration") != _AGENT_INTEGRATION:
        return "PARSER" if run_type == "parser" else "CHAIN"
    # Runs inside an agent inherit its metadata; the graph itself is no node, and in none unless it is nested.
    if any(str(tag).startswith(_STEP) for tag in tags):
        return "CHAIN"
    is_graph = "langgraph_node" not in metadata or name == metadata.get("lc_agent_name", "LangGraph")
    return "AGENT" if is_graph else "CHAIN"


def chain_attributes(run_type: object, tags: Sequence[str]) -> dict[str, object]:
    """Return what tells a chain from other chains: that it is a prompt, or which step of a graph it was."""
    found: dict[str, object] = {"lc.run_type": "prompt"} if run_type == "prompt" else {}
    for tag in map(str, tags):
        step = tag.removeprefix(_STEP)
        if step != tag and step.isdecimal():
            found["langgraph.step"] = int(step)
    return found


def describe(
    trace: TraceRecord, settings: Settings, tags: Sequence[str], metadata: Mapping[str, object]
) -> None:
    """Say of a new trace what its root's config knows, and the settings where that says nothing."""
    known = {str(key): _text(value) for key, value in metadata.items() if value is not None}
    session = next((known[key] for key in _SESSION_KEYS if known.get(key)), None)
    trace.session_id = session or settings.session_id
    trace.user_id = known.get("user_id") or settings.user_id
    named = (tag for tag in map(str, tags) if not tag.startswith(_INTERNAL_TAGS))
    trace.tags = {**settings.tags, **dict.fromkeys(named, "true")}
    own = {key: item for key, item in known.items() if not key.startswith(_INTERNAL_METADATA)}
    trace.metadata = {**settings.metadata, **{key: own[key] for key in own.keys() - _NAMED_KEYS}}


def _text(value: object) -> str:
    return attempt(lambda: str(value), lambda _: f"<{type(value).__name__}>")
