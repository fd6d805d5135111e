"""Copies what LangGraph's nodes and graphs exchange beside their state: commands and interrupts.

LangGraph is no dependency: its types are known by their names.
"""

from __future__ import annotations

from langchain_mlflow_tracer.recording.content.freeze import Freezer

__all__ = ["command", "interrupts", "is_command"]


def is_command(kind: type) -> bool:
    """Whether it is LangGraph's class of commands, by which a node or a caller directs a graph."""
    return kind.__module__ == "langgraph.types" and kind.__name__ == "Command"


def command(value: object, copy: Freezer) -> object:
    """Copy a command: the update alone if it has nothing else, otherwise every field that is set."""
    fields = {name: getattr(value, name, None) for name in ("update", "resume", "goto", "graph")}
    fields = {name: field for name, field in fields.items() if field is not None and not _is_empty(field)}
    return copy(fields["update"]) if set(fields) == {"update"} else copy.mapping(fields)


def _is_empty(field: object) -> bool:
    # Not `field == ()`: a comparison runs code of the field's class, which may raise.
    return isinstance(field, tuple) and not field


def interrupts(listed: object, copy: Freezer | None) -> list[dict[str, object]]:
    """Return the interrupts that a graph waits for: the ids, and the values if there is a `copy`."""
    if not isinstance(listed, list | tuple):
        return []
    return [_interrupt(item, copy) for item in listed]


def _interrupt(item: object, copy: Freezer | None) -> dict[str, object]:
    shown: dict[str, object] = {"id": str(getattr(item, "id", None))}
    return shown if copy is None else {**shown, "value": copy(getattr(item, "value", None))}
