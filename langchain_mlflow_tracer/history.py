"""Tells a conversation once in a trace: where it comes again, what is new, and which span has the rest.

A model of an agent is sent the whole conversation at every step, and so is every node of its graph. Stored as
sent, forty steps are mostly repetition. `conversation` puts together again what a span was given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from langchain_mlflow_tracer.codec import json_bytes
from langchain_mlflow_tracer.record import SpanRecord, TraceRecord

__all__ = ["EARLIER", "KEPT", "Message", "answer", "may_repeat", "told_once"]

EARLIER: Final = "earlier_messages"
"""The key of the message that stands for those that are told elsewhere in the trace."""

KEPT: Final = 4_096
"""Bytes of repetition that are left alone: a page of chat, which is read more easily where it happened."""

# A tuple: what stands for a role may be of a type that no set takes.
_ROLES: Final = ("system", "user", "assistant", "tool")
_START: Final = 0

TOOLS: Final = "mlflow.chat.tools"
"""The attribute that holds the tools which a model was offered."""

_GLANCED_AT: Final = frozenset({"role", "content"})
_FRAME: Final = 64
"""Bytes of a message in JSON beside its content, at most."""
_LONGEST_ESCAPE: Final = 6
"""Bytes of a character in JSON, at most."""

Message = Mapping[str, object]


class _Place(NamedTuple):
    """Where messages are told: in a side of a span, under a key, from one of them on."""

    span: SpanRecord
    side: str
    key: str | None
    first: int


class _Told:
    """The conversations of a trace so far, as a tree: each message under those that came before it."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, bytes], int] = {}
        self._places: dict[int, _Place] = {}
        self._written: dict[int, tuple[object, bytes]] = {}

    def json(self, values: Iterable[object]) -> list[bytes]:
        """Return values as JSON; what spans share is written once."""
        known = self._written.get
        return [one[1] if (one := known(id(value))) else self._write(value) for value in values]

    def _write(self, value: object) -> bytes:
        text = json_bytes(value)
        self._written[id(value)] = value, text  # with the value: else its identity may be another's soon
        return text

    def find(self, texts: Sequence[bytes]) -> tuple[int, _Place | None]:
        """Return how many of these messages were told before, in this order, and where."""
        node = count = _START
        for text in texts:
            following = self._after.get((node, text))
            if following is None:
                break
            node, count = following, count + 1
        return count, self._places.get(node)

    def add(self, texts: Iterable[bytes], place: _Place) -> None:
        """Remember where these messages are told, as far as they are new."""
        node = _START
        for text in texts:
            following = self._after.get((node, text))
            if following is None:
                following = self._after[node, text] = len(self._after) + 1
                self._places[following] = place
            node = following


def told_once(trace: TraceRecord) -> TraceRecord:
    """Shorten what the spans of a trace were given and gave by what earlier ones have told; return it.

    The root is left as it is: it has the conversation from its beginning to its end. So is the last message
    of each, and what is too short to matter. Tools that a model was offered are told once, too.
    """
    told, offered = _Told(), dict[bytes, str]()
    root = next(iter(trace.spans), None)
    for _, span, side in sorted(_sides(trace.spans), key=itemgetter(0)):
        if side == "inputs":
            _tell_tools_once(told, span, offered)
        _shorten(told, span, side, may_change=span is not root)
    return trace


def may_repeat(trace: TraceRecord, keys: Collection[str]) -> bool:
    """Whether it is worth a look if a trace tells anything twice, by its size and the keys that it has.

    One that seems too short for it may be wide when it is written: then it is worth a look after all.
    """
    return TOOLS in keys or sum(span.size for span in trace.spans) > KEPT


def _sides(spans: Iterable[SpanRecord]) -> Iterable[tuple[int, SpanRecord, str]]:
    for span in spans:
        yield span.start_ns, span, "inputs"
        yield span.end_ns or span.start_ns, span, "outputs"


def _tell_tools_once(told: _Told, span: SpanRecord, offered: dict[bytes, str]) -> None:
    tools = span.attributes.get(TOOLS)
    if tools is None:
        return
    (text,) = told.json([tools])
    first = offered.setdefault(text, span.span_id.hex())
    if first != span.span_id.hex():
        attributes = {**span.attributes, "lc.tools.in_span": first}
        del attributes[TOOLS]
        span.attributes = attributes


def _shorten(told: _Told, span: SpanRecord, side: str, *, may_change: bool) -> None:
    value = getattr(span, side)
    for key, messages in _conversations(value):
        shorter = _shortened(told, messages, _Place(span, side, key, 0))
        if may_change and shorter is not None:
            value = shorter if key is None else {**value, key: shorter}
            setattr(span, side, value)


def _conversations(value: object) -> list[tuple[str | None, list[Message]]]:
    """The lists of role messages in a value: itself, or under its keys."""
    if isinstance(value, dict):
        return [(key, item) for key, item in value.items() if _is_conversation(item)]
    return [(None, value)] if isinstance(value, list) and _is_conversation(value) else []


def _is_conversation(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    for one in value:
        if not isinstance(one, dict) or "content" not in one or one.get("role") not in _ROLES:
            return False
    return True


def _shortened(told: _Told, messages: list[Message], place: _Place) -> list[Message] | None:
    """Return a conversation without what is told elsewhere, if that is much; remember it in any case."""
    if _is_little(messages, place):
        return None
    texts = told.json(messages)
    heading = next((at for at, one in enumerate(messages) if one["role"] != "system"), len(messages))
    shorter = _without_told(told, messages, texts, 0) or (
        # What heads it may change with every step: the date, or what is left to do.
        _without_told(told, messages, texts, heading) if heading else None
    )
    answered = _answer(place)
    said = texts if answered is None else [*texts, *told.json([answered])]
    told.add(said, place)
    if heading:
        told.add(said[heading:], place._replace(first=heading))
    return shorter


def _is_little(messages: Sequence[Message], place: _Place) -> bool:
    """Whether a conversation, with its answer, is so short that it matters nowhere, seen at a glance."""
    answered = _answer(place)
    left = KEPT
    for message in messages if answered is None else [*messages, answered]:
        content = message["content"]
        if type(content) is not str or not message.keys() <= _GLANCED_AT:
            return False
        left -= _FRAME + _LONGEST_ESCAPE * len(content)
        if left < 0:
            return False
    return True


def _without_told(
    told: _Told, messages: list[Message], texts: list[bytes], first: int
) -> list[Message] | None:
    # The last one always stands: it is what the span was asked, or what it said.
    count, place = told.find(texts[first:-1])
    if place is None or sum(map(len, texts[first : first + count])) <= KEPT:
        return None
    return [*messages[:first], _earlier(count, place), *messages[first + count :]]


def _earlier(count: int, place: _Place) -> Message:
    span_id = place.span.span_id.hex()
    path = place.side if place.key is None else f"{place.side}.{place.key}"
    where = f"in the {place.side} of {place.span.name}, span {span_id}"
    return {
        "role": "system",
        "content": f"[{count} earlier messages are told {where}]",
        EARLIER: {"span_id": span_id, "path": path, "first": place.first, "count": count},
    }


def _answer(place: _Place) -> Message | None:
    """What a model said to the messages it was sent belongs to the conversation."""
    return answer(place.span.span_type, place.span.outputs) if place.side == "inputs" else None


def answer(span_type: str, outputs: object) -> Message | None:
    """Return what a model said, from the outputs of its span; None for spans of other types."""
    choices = outputs.get("choices") if span_type == "CHAT_MODEL" and isinstance(outputs, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else None
