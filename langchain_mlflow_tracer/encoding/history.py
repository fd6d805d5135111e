"""Tells a conversation once in a trace: where it comes again, what is new, and which span has the rest.

A model of an agent is sent the whole conversation at every step, and so is every node of its graph. Stored as
sent, forty steps are mostly repetition. `conversation` puts together again what a span was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple

from langchain_mlflow_tracer.core.attributes import CHAT_TOOLS
from langchain_mlflow_tracer.core.json_text import json_bytes
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding.common_prefix import Grown

__all__ = ["EARLIER", "KEPT", "LONG", "Message", "answer", "told_once"]

EARLIER: Final = "earlier_messages"
"""The key of the message that stands for those that are told elsewhere in the trace."""

KEPT: Final = 4_096
"""Bytes of repetition that are left alone: a page of chat, which is read more easily where it happened."""

LONG: Final = 2 * KEPT
"""Bytes of a trace in memory, a kilobyte for each span, from which it is searched for repetition: a chain of
few steps has little of it, and the search takes half as long as writing such a trace."""

# A tuple: what stands for a role may be of a type that no set takes.
_ROLES: Final = ("system", "user", "assistant", "tool")

Message = Mapping[str, object]


class _Place(NamedTuple):
    """Where messages are told: in a side of a span, under a key, from one of them on."""

    span: SpanRecord
    side: str
    key: str | None
    first: int


class _Node:
    """A message under those that came before it: where it is told, and the bytes up to its end."""

    __slots__ = ("after", "place", "size")

    def __init__(self, place: _Place | None = None, size: int = 0) -> None:
        self.after: dict[bytes, _Node] = {}
        self.place = place
        self.size = size


_NOWHERE: Final[tuple[list[bytes], list[_Node]]] = ([], [])


class _Told:
    """The conversations of a trace so far, as a tree: each message under those that came before it.

    Where one begins as another did, only what follows is looked at: an agent is given its conversation anew
    at every step, and twice the steps must not take four times as long.
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._grown = Grown()
        self._texts: dict[int, list[bytes]] = {}
        self._same: dict[bytes, bytes] = {}
        self._written: dict[int, tuple[object, bytes]] = {}
        self._followed: dict[bytes, tuple[list[bytes], list[_Node]]] = {}

    def texts(self, value: list[Any]) -> list[bytes]:
        """Return the messages of a conversation as JSON; of what are no role messages, nothing."""
        known, texts = self._grown.known(value), self._texts.get(id(value[0]), [])[: len(value)]
        more = value[min(known, len(texts)) :]
        if more:
            told = texts[:known]
            texts = [*told, *map(self.text, more)] if all(map(_is_message, more)) else []
            self._texts[id(value[0])] = texts
        return texts

    def text(self, value: object) -> bytes:
        """Return a value as JSON; what is equal is the same, which is seen faster."""
        if id(value) not in self._written:
            text = json_bytes(value)
            self._written[id(value)] = value, self._same.setdefault(text, text)
        return self._written[id(value)][1]

    def find(self, texts: list[bytes]) -> tuple[int, _Node]:
        """Return how many of these messages were told before, in this order, and the last of them."""
        path = self._follow(texts)
        return len(path), path[-1] if path else self._root

    def add(self, texts: list[bytes], place: _Place) -> None:
        """Remember where these messages are told, as far as they are new."""
        path = self._follow(texts)
        node = path[-1] if path else self._root
        for text in texts[len(path) :]:
            following = node.after[text] = _Node(place, node.size + len(text))
            path.append(following)
            node = following
        if texts:
            self._followed[texts[0]] = texts, path

    def _follow(self, texts: list[bytes]) -> list[_Node]:
        """Return the nodes of these messages from the beginning, as far as they were told before."""
        followed, path = self._followed.get(texts[0], _NOWHERE) if texts else _NOWHERE
        common = min(len(followed), len(texts))
        path = path[:common] if followed[:common] == texts[:common] else []
        node: _Node | None = path[-1] if path else self._root
        for text in texts[len(path) :]:
            node = node and node.after.get(text)
            if node is None:
                break
            path.append(node)
        return path


def told_once(trace: TraceRecord) -> TraceRecord:
    """Shorten what the spans of a trace were given and gave by what earlier ones have told; return it.

    The root is left as it is: it has the conversation from its beginning to its end. So is the last message
    of each, and what is too short to matter. Tools that a model was offered are told once, too.
    """
    told, offered = _Told(), dict[bytes, str]()
    root = next(iter(trace.spans), None)
    for _, span, side in sorted(_sides(trace.spans), key=itemgetter(0)):
        if side == "inputs" and CHAT_TOOLS in span.attributes:
            _tell_tools_once(told, span, offered)
        _shorten(told, span, side, may_change=span is not root)
    return trace


def _sides(spans: Iterable[SpanRecord]) -> Iterable[tuple[int, SpanRecord, str]]:
    for at, span in enumerate(spans):
        yield span.start_ns, span, "inputs"
        if at:  # after what the root gave comes nothing that could tell it again
            yield span.end_ns or span.start_ns, span, "outputs"


def _tell_tools_once(told: _Told, span: SpanRecord, offered: dict[bytes, str]) -> None:
    text = told.text(span.attributes[CHAT_TOOLS])
    first = offered.setdefault(text, span.span_id.hex())
    if first != span.span_id.hex():
        attributes = {**span.attributes, "lc.tools.in_span": first}
        del attributes[CHAT_TOOLS]
        span.attributes = attributes


def _shorten(told: _Told, span: SpanRecord, side: str, *, may_change: bool) -> None:
    """Shorten the conversations in what a span was given or gave: itself, or under its keys."""
    value: Any = getattr(span, side)
    if not isinstance(value, dict | list):
        return
    for key, messages in value.items() if isinstance(value, dict) else [(None, value)]:
        texts = told.texts(messages) if isinstance(messages, list) and messages else None
        shorter = _shortened(told, messages, texts, _Place(span, side, key, 0)) if texts else None
        if may_change and shorter is not None:
            value = {**value, key: shorter} if isinstance(value, dict) else shorter
            setattr(span, side, value)


def _is_message(one: object) -> bool:
    return isinstance(one, dict) and "content" in one and one.get("role") in _ROLES


def _shortened(
    told: _Told, messages: list[Message], texts: list[bytes], place: _Place
) -> list[Message] | None:
    """Return a conversation without what is told elsewhere, if that is much; remember it in any case."""
    answered = _answer(place)
    said = texts if answered is None else [*texts, told.text(answered)]
    if _is_little(said):
        return None
    heading = next((at for at, one in enumerate(messages) if one["role"] != "system"), len(messages))
    shorter = _without_told(told, messages, texts, 0) or (
        # What heads it may change with every step: the date, or what is left to do.
        _without_told(told, messages, texts, heading) if heading else None
    )
    told.add(said, place)
    if heading:
        told.add(said[heading:], place._replace(first=heading))
    return shorter


def _is_little(texts: Iterable[bytes]) -> bool:
    """Whether a conversation, with its answer, is so short that it matters nowhere."""
    left = KEPT
    for text in texts:
        left -= len(text)
        if left < 0:
            return False
    return True


def _without_told(
    told: _Told, messages: list[Message], texts: list[bytes], first: int
) -> list[Message] | None:
    # The last one always stands: it is what the span was asked, or what it said.
    count, last = told.find(texts[first:-1])
    if last.place is None or last.size <= KEPT:
        return None
    return [*messages[:first], _earlier(count, last.place), *messages[first + count :]]


def _earlier(count: int, place: _Place) -> Message:
    span_id = place.span.span_id.hex()
    path = place.side if place.key is None else f"{place.side}.{place.key}"
    where = f'the {place.side} of span "{place.span.name}" ({span_id})'
    return {
        "role": "system",
        "content": f"[{count} earlier message{'s' * (count > 1)} omitted: see {where}]",
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
