"""Stores a conversation once in a trace: where messages come again, a note names the span that has them.

The model of an agent is sent the whole conversation at every step, and so is every node of its graph. Stored
as sent, forty steps are mostly repetition. `whole_messages` returns what a span was given, in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple

from langchain_mlflow_tracer.core.attributes import CHAT_TOOLS
from langchain_mlflow_tracer.core.json_text import json_bytes
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding.common_prefix import CommonPrefixes

__all__ = ["EARLIER", "KEPT", "LONG", "Message", "answer", "shorten"]

EARLIER: Final = "earlier_messages"
"""The key, in a note, of where in the trace the omitted messages are."""

KEPT: Final = 4_096
"""Bytes of repetition that are left alone: a page of chat, which is read more easily where it happened."""

LONG: Final = 2 * KEPT
"""Bytes of a trace in memory, a kilobyte for each span, from which it is searched for repetition: a chain of
few steps has little of it, and the search takes half as long as writing such a trace."""

# A tuple: what stands for a role may be of a type that no set takes.
_ROLES: Final = ("system", "user", "assistant", "tool")

Message = Mapping[str, object]


class _Place(NamedTuple):
    """Where messages are stored: in a side of a span, under a key, from index `first` on."""

    span: SpanRecord
    side: str
    key: str | None
    first: int


class _Node:
    """A message, as a child of the one before it: where it is stored, and the bytes up to its end."""

    __slots__ = ("after", "place", "size")

    def __init__(self, place: _Place | None = None, size: int = 0) -> None:
        self.after: dict[bytes, _Node] = {}
        self.place = place
        self.size = size


_NOWHERE: Final[tuple[list[bytes], list[_Node]]] = ([], [])


class _Conversations:
    """The conversations of a trace so far, as a tree: each message under those that came before it.

    If one begins as another did, only the rest is compared: an agent is given its whole conversation at
    every step, and twice the steps must not take four times as long.
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._prefixes = CommonPrefixes()
        self._texts: dict[int, list[bytes]] = {}
        self._same: dict[bytes, bytes] = {}
        self._written: dict[int, tuple[object, bytes]] = {}
        self._paths: dict[bytes, tuple[list[bytes], list[_Node]]] = {}

    def texts(self, value: list[Any]) -> list[bytes]:
        """Return the messages of a conversation as JSON; nothing if one of them is no role message."""
        known, texts = self._prefixes.known(value), self._texts.get(id(value[0]), [])[: len(value)]
        more = value[min(known, len(texts)) :]
        if more:
            texts = [*texts[:known], *map(self.text, more)] if all(map(_is_message, more)) else []
            self._texts[id(value[0])] = texts
        return texts

    def text(self, value: object) -> bytes:
        """Return a value as JSON; equal texts are the same object, which makes comparing them fast."""
        # The value is kept with its text: after it is freed, its id may be that of another one.
        if id(value) not in self._written:
            text = json_bytes(value)
            self._written[id(value)] = value, self._same.setdefault(text, text)
        return self._written[id(value)][1]

    def find(self, texts: list[bytes]) -> tuple[int, _Node]:
        """Return how many of these messages were added before, in this order, and the last of them."""
        path = self._follow(texts)
        return len(path), path[-1] if path else self._root

    def add(self, texts: list[bytes], place: _Place) -> None:
        """Remember where these messages are stored, as far as they are new."""
        path = self._follow(texts)
        node = path[-1] if path else self._root
        for text in texts[len(path) :]:
            following = node.after[text] = _Node(place, node.size + len(text))
            path.append(following)
            node = following
        if texts:
            self._paths[texts[0]] = texts, path

    def _follow(self, texts: list[bytes]) -> list[_Node]:
        """Return the nodes of these messages from the beginning, as far as they were added before."""
        before, path = self._paths.get(texts[0], _NOWHERE) if texts else _NOWHERE
        common = min(len(before), len(texts))
        path = path[:common] if before[:common] == texts[:common] else []
        node: _Node | None = path[-1] if path else self._root
        for text in texts[len(path) :]:
            node = node and node.after.get(text)
            if node is None:
                break
            path.append(node)
        return path


def shorten(trace: TraceRecord) -> TraceRecord:
    """Omit messages of spans that an earlier span has, where that saves much; return the trace.

    The root stays as it is: it has the conversation from its beginning to its end. The last message of each
    list stays too. The definitions of tools that models were offered are stored once as well.
    """
    conversations, offered = _Conversations(), dict[bytes, str]()
    root = next(iter(trace.spans), None)
    for _, span, side in sorted(_sides(trace.spans), key=itemgetter(0)):
        if side == "inputs" and CHAT_TOOLS in span.attributes:
            _define_tools_once(conversations, span, offered)
        _shorten_side(conversations, span, side, may_change=span is not root)
    return trace


def _sides(spans: Iterable[SpanRecord]) -> Iterable[tuple[int, SpanRecord, str]]:
    for at, span in enumerate(spans):
        yield span.start_ns, span, "inputs"
        if at:  # nothing comes after the outputs of the root that could repeat them
            yield span.end_ns or span.start_ns, span, "outputs"


def _define_tools_once(conversations: _Conversations, span: SpanRecord, offered: dict[bytes, str]) -> None:
    text = conversations.text(span.attributes[CHAT_TOOLS])
    first = offered.setdefault(text, span.span_id.hex())
    if first != span.span_id.hex():
        attributes = {**span.attributes, "lc.tools.in_span": first}
        del attributes[CHAT_TOOLS]
        span.attributes = attributes


def _shorten_side(conversations: _Conversations, span: SpanRecord, side: str, *, may_change: bool) -> None:
    """Shorten the conversations in the inputs or outputs of a span: the value itself, or under its keys."""
    value: Any = getattr(span, side)
    if not isinstance(value, dict | list):
        return
    for key, messages in value.items() if isinstance(value, dict) else [(None, value)]:
        texts = conversations.texts(messages) if isinstance(messages, list) and messages else None
        shorter = _shortened(conversations, messages, texts, _Place(span, side, key, 0)) if texts else None
        if may_change and shorter is not None:
            value = {**value, key: shorter} if isinstance(value, dict) else shorter
            setattr(span, side, value)


def _is_message(item: object) -> bool:
    return isinstance(item, dict) and "content" in item and item.get("role") in _ROLES


def _shortened(
    conversations: _Conversations, messages: list[Message], texts: list[bytes], place: _Place
) -> list[Message] | None:
    """Return a conversation without what is stored elsewhere, if that is much; remember it in any case."""
    reply = _answer(place)
    whole = texts if reply is None else [*texts, conversations.text(reply)]
    if _is_little(whole):
        return None
    heading = next((at for at, message in enumerate(messages) if message["role"] != "system"), len(messages))
    shorter = _without_earlier(conversations, messages, texts, 0) or (
        # The system messages at its head may change with every step: the date, or what is left to do.
        _without_earlier(conversations, messages, texts, heading) if heading else None
    )
    conversations.add(whole, place)
    if heading:
        conversations.add(whole[heading:], place._replace(first=heading))
    return shorter


def _is_little(texts: Iterable[bytes]) -> bool:
    """Whether a conversation, with its answer, is too short to be worth a note."""
    left = KEPT
    for text in texts:
        left -= len(text)
        if left < 0:
            return False
    return True


def _without_earlier(
    conversations: _Conversations, messages: list[Message], texts: list[bytes], first: int
) -> list[Message] | None:
    # The last message always stays: it is what the span was asked, or its answer.
    count, last = conversations.find(texts[first:-1])
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
    """Return the answer of a model: it belongs to the conversation that the model was sent."""
    return answer(place.span.span_type, place.span.outputs) if place.side == "inputs" else None


def answer(span_type: str, outputs: object) -> Message | None:
    """Return the answer of a model, from the outputs of its span; None for spans of other types."""
    choices = outputs.get("choices") if span_type == "CHAT_MODEL" and isinstance(outputs, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return message if isinstance(message, dict) else None
