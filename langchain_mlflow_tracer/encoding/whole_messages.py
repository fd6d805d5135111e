"""Returns the whole messages of a stored span whose trace stores each conversation once."""

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
    """Return all messages that a span was given, also those that are stored in other spans of its trace.

    Args:
        trace: as `mlflow.get_trace` returns it.
        span: one of its spans.
        path: which list: `inputs.messages` is what a model was sent. Other keys of the inputs or outputs are
            named alike, and a value that is itself a list of messages `inputs` or `outputs`.

    Raises:
        LookupError: there is no such list, or the trace lacks a span that has a part of it.
    """
    spans = {item.span_id: item for item in trace.data.spans}
    sought = (span.span_id, path)
    known: dict[_List, list[Message]] = {}
    pending = [sought]  # no recursion: a long conversation is stored in as many spans as it has steps
    while pending:
        place = pending[-1]
        missing = [other for other in _places_of_earlier(_read(spans, place)) if other not in known]
        if any(other in pending for other in missing):
            raise LookupError(f"the messages in {place[1]} of span {place[0]} are in no span")
        if missing:
            pending += missing
        else:
            known[pending.pop()] = _put_together(spans, known, place)
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


def _places_of_earlier(messages: list[Message]) -> list[_List]:
    """Return the lists that have the messages which are omitted here."""
    named = (message.get(EARLIER) for message in messages)
    return [(note["span_id"], note["path"]) for note in named if isinstance(note, dict)]


def _put_together(
    spans: Mapping[str, Span], known: Mapping[_List, list[Message]], place: _List
) -> list[Message]:
    whole: list[Message] = []
    for message in _read(spans, place):
        earlier = message.get(EARLIER)
        if isinstance(earlier, dict):
            span = spans[earlier["span_id"]]
            reply = answer(span.span_type, span.outputs)
            messages = [*known[earlier["span_id"], earlier["path"]], *([reply] if reply else [])]
            whole += messages[earlier["first"] : earlier["first"] + earlier["count"]]
        else:
            whole.append(message)
    return whole
