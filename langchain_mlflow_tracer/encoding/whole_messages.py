"""Reads what a stored span was given in full, where its trace tells a conversation only once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from langchain_mlflow_tracer.encoding.history import EARLIER, Message, answer

if TYPE_CHECKING:
    from mlflow.entities import Span, Trace

__all__ = ["whole_messages"]

_List: TypeAlias = tuple[str, str]
"""A list of messages: the id of its span, and its path there."""


def whole_messages(trace: Trace, span: Span, path: str = "inputs.messages") -> list[Message]:
    """Return all messages that a span was given, also those that other spans of its trace tell.

    Args:
        trace: as `mlflow.get_trace` returns it.
        span: one of its spans.
        path: which list: `inputs.messages` is what a model was sent. Other keys of the inputs or outputs are
            named alike, and a value that is itself a list of messages `inputs` or `outputs`.

    Raises:
        LookupError: there is no such list, or the trace lacks a span that tells a part of it.
    """
    spans = {one.span_id: one for one in trace.data.spans}
    sought = (span.span_id, path)
    known: dict[_List, list[Message]] = {}
    pending = [sought]  # a stack of our own: a long conversation is told by as many spans as it has steps
    while pending:
        one = pending[-1]
        missing = [other for other in _told_in(_read(spans, one)) if other not in known]
        if any(other in pending for other in missing):
            raise LookupError(f"the messages in {one[1]} of span {one[0]} are told nowhere")
        if missing:
            pending += missing
        else:
            known[pending.pop()] = _put_together(spans, known, one)
    return known[sought]


def _read(spans: Mapping[str, Span], place: _List) -> list[Message]:
    span_id, path = place
    if span_id not in spans:
        raise LookupError(f"the trace has no span {span_id}")
    side, _, key = path.partition(".")
    value = spans[span_id].inputs if side == "inputs" else spans[span_id].outputs
    messages = value.get(key) if key and isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise LookupError(f"span {span_id} has no list of messages in {path}")  # noqa: TRY004 - of what is stored
    return messages


def _told_in(messages: list[Message]) -> list[_List]:
    """The lists that tell a part of this one."""
    named = (message.get(EARLIER) for message in messages)
    return [(one["span_id"], one["path"]) for one in named if isinstance(one, dict)]


def _put_together(
    spans: Mapping[str, Span], known: Mapping[_List, list[Message]], place: _List
) -> list[Message]:
    whole: list[Message] = []
    for message in _read(spans, place):
        earlier = message.get(EARLIER)
        if isinstance(earlier, dict):
            span = spans[earlier["span_id"]]
            answered = answer(span.span_type, span.outputs)
            told = [*known[earlier["span_id"], earlier["path"]], *([answered] if answered else [])]
            whole += told[earlier["first"] : earlier["first"] + earlier["count"]]
        else:
            whole.append(message)
    return whole
