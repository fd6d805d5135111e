"""Copies what LangGraph's nodes and graphs exchange beside their state: commands and interrupts.

LangGraph is no dependency: its types are known by their names.
"""

from __future__ import annotations

from langchain_mlflow_tracer.recording.content.freeze import Freezer

__all__ = ["command", "interrupts", "is_command"]


def is_command(kind: type) -> bool:
    """Whether it is what a node of a graph returns, or a graph is called with, to say where to go on."""
    return kind.__module__ == "langgraph.types" and kind.__name__ == "Command"


def command(value: object, copy: Freezer) -> object:
    """Copy a command: the update alone if it has nothing else, otherwise every field that is set."""
    fields = {name: getattr(value, name, None) for name in ("update", "resume", "goto", "graph")}
    fields = {name: field for name, field in fields.items() if field is not None and not _is_empty(field)}
    return copy(fields["update"]) if set(fields) == {"update"} else copy.mapping(fields)


def _is_empty(field: object) -> bool:
    # Not `field == ()`: a comparison runs code of the field's class, which may raise.
    return isinstance(field, tuple) and not field


def interrupts(found: object, copy: Freezer | None) -> list[dict[str, object]]:
    """Return what a graph waits for: each question by its id, and with its payload if there is a `copy`."""
    listed = found if isinstance(found, list | tuple) else ()
    asked = [(getattr(one, "id", None), getattr(one, "value", None)) for one in listed]
    return [
        {"id": str(identity), **({} if copy is None else {"value": copy(value)})} for identity, value in asked
    ]
