"""Reads a run's name, type, tags and parent, as LangChain gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config

from langchain_mlflow_tracer.core.record import SpanRecord

__all__ = ["add_tags", "chain_type", "name", "named_parent"]

_STEP: Final = "graph:step:"
"""The tag of a node's run, before the number of the step (langgraph 1.2)."""

_RETRY_TAG: Final = "retry:attempt:"
"""The tag of a run of `with_retry`, from its second attempt on (langchain-core 1.7)."""

_TAGS: Final = {_STEP[:-1]: "langgraph.step", _RETRY_TAG[:-1]: "lc.retry.attempt"}

_AGENT_INTEGRATION: Final = "langchain_create_agent"
"""The `ls_integration` of what `langchain.agents.create_agent` makes (langchain 1.4)."""


def name(serialized: Mapping[str, Any] | None) -> str:
    """Return the name of the class that was run, for a run to which LangChain gives no name."""
    if not serialized:
        return "run"
    return str(serialized.get("name") or (serialized.get("id") or ["run"])[-1])


def chain_type(name: str, run_type: object, tags: Sequence[str], metadata: Mapping[str, Any]) -> str:
    """Return AGENT for what `create_agent` made, PARSER for parsers, CHAIN for everything else."""
    if run_type is not None or metadata.get("ls_integration") != _AGENT_INTEGRATION:
        return "PARSER" if run_type == "parser" else "CHAIN"
    # Runs inside an agent inherit its metadata; the graph itself is no node, and in none unless it is nested.
    if any(str(tag).startswith(_STEP) for tag in tags):
        return "CHAIN"
    is_graph = "langgraph_node" not in metadata or name == metadata.get("lc_agent_name", "LangGraph")
    return "AGENT" if is_graph else "CHAIN"


def add_tags(span: SpanRecord, tags: Sequence[str]) -> None:
    """Add the attributes that LangChain's own tags hold: a node's step, and the attempt of `with_retry`.

    The first attempt has no such tag.
    """
    for tag in tags:
        prefix, _, number = str(tag).rpartition(":")
        if prefix in _TAGS and number.isdecimal():
            span.attributes[_TAGS[prefix]] = int(number)


def named_parent() -> UUID | None:
    """Return the run that LangChain's own context names as the parent of a run that starts now."""
    config = var_child_runnable_config.get()
    return getattr(config.get("callbacks"), "parent_run_id", None) if config else None
