"""Takes pictures, sounds and files out of a trace, and leaves MLflow's references to them.

MLflow keeps such content beside the trace and shows it where a reference stands: anywhere since mlflow 3.11,
in chats since 3.12.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from langchain_mlflow_tracer.core.record import SpanEvent, TraceRecord, mlflow_id
from langchain_mlflow_tracer.encoding.attachment_blocks import BASE64_KEYS, base64_in, drawable
from langchain_mlflow_tracer.encoding.attachment_reference import reference
from langchain_mlflow_tracer.encoding.scan import TraceScan

__all__ = ["Attachment", "detach", "may_hold"]

SHORTEST: Final = 48
"""Characters that the smallest picture has in base64, a GIF of one point."""

LITTLE: Final = 1024
"""Bytes up to which data stays where it is if it is of no known type, or stands in the middle of a text: it
can be read there, and `freeze` keeps as much of `bytes`."""

MOST: Final = 100 * 1024 * 1024
"""Bytes of attachments that one trace may have: twice what OpenAI takes in one request, and a tenth of what
the spool may hold by default."""

CHUNK: Final = 64 * 1024
"""Characters that are decoded at once, in a tenth of a millisecond; then other threads have their turn."""

UNKNOWN: Final = "application/octet-stream"
MARK: Final = ";base64,"

_HEADER: Final = r"data:([\w.+-]{1,80}/[\w.+-]{1,80})?(?:;[\w.=+-]{1,80}){0,4}"
_DATA_URI: Final = re.compile(f"{_HEADER}{MARK}")

# Within a text the mark is looked for, which is rare, and then what stands before it.
_LONG: Final = re.compile(rf"{MARK}([A-Za-z0-9+/]{{{LITTLE * 4 // 3},}}={{0,2}})")
_BEFORE: Final = re.compile(rf"{_HEADER}\Z")
_LONGEST_HEADER: Final = 500

# What else is base64: with line breaks, and the alphabet that is safe in URLs.
_TIDY: Final = str.maketrans("-_", "+/", " \t\r\n")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attachment:
    """Content that belongs to a trace. Its id is made of it: what is stored again overwrites itself."""

    trace_id: bytes
    id: uuid.UUID
    content: bytes

    @property
    def path(self) -> str:
        """Where MLflow looks for it among the artifacts of the trace."""
        return f"attachments/{self.id}"


def detach(trace: TraceRecord, report: Callable[[str], None] = lambda _attachment: None) -> list[Attachment]:
    """Put references into the spans of a trace, and return what they refer to, each content once.

    The spans get new values; the old ones may be shared with other spans and are not changed. `report` is
    called with the type and size of each attachment that is too large.
    """
    detacher = _Detacher(trace.trace_id, report)
    for span in trace.spans:
        span.status_message = detacher.text(span.status_message)
        span.inputs = detacher.put_into(span.inputs)
        span.outputs = detacher.put_into(span.outputs)
        span.attributes = detacher.put_into(span.attributes)
        span.events = [
            SpanEvent(event.name, event.time_ns, detacher.put_into(event.attributes)) for event in span.events
        ]
    return list(detacher.attachments.values())


def may_hold(scan: TraceScan) -> bool:
    """Whether anything of a trace may be a picture, a sound or a file."""
    long = [text for text in scan.texts if len(text) >= SHORTEST]
    return not BASE64_KEYS.isdisjoint(scan.keys) or any(map(_is_worth_a_look, long))


def _is_worth_a_look(text: str) -> bool:
    return len(text) >= SHORTEST and (text.startswith("data:") or (len(text) > LITTLE and MARK in text))


def _may_hold(value: object) -> bool:
    """Whether a value may hold an attachment: for most values this fast check says no."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            if _is_worth_a_look(item):
                return True
        elif isinstance(item, dict):
            if not BASE64_KEYS.isdisjoint(item):
                return True
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
    return False


class _Detacher:
    """Replaces attachments of one trace by references. A value without any is returned itself, not a copy."""

    def __init__(self, trace_id: bytes, report: Callable[[str], None]) -> None:
        self.attachments: dict[uuid.UUID, Attachment] = {}
        self._trace_id = trace_id
        self._report = report
        self._left = MOST
        self._known: dict[object, str | None] = {}

    def put_into(self, value: T) -> T:
        """Return plain data with references in it."""
        return cast("T", self.value(value)) if _may_hold(value) else value

    def value(self, value: object, under: str = "") -> object:
        """Return plain data with references in it; `under` is the key at which it stands."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return self.mapping(value, under)
        if isinstance(value, list):
            items = [self.value(item) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        return value

    def text(self, text: str) -> str:
        """Return a reference for a data URI, and a text with references for those within it."""
        if len(text) < SHORTEST:
            return text
        if text.startswith("data:") and (known := self._data_uri(text)) is not None:
            return known
        return self._within(text) if len(text) > LITTLE and MARK in text else text

    def _data_uri(self, text: str) -> str | None:
        if text not in self._known:  # by the whole text, which spans share: its hash is computed once
            uri = _DATA_URI.match(text)
            self._known[text] = uri and self._attach(text[uri.end() :], uri[1] or UNKNOWN)
        return self._known[text]

    def _within(self, text: str) -> str:
        parts: list[str] = []
        done = 0
        for found in _LONG.finditer(text):
            start = max(done, found.start() - _LONGEST_HEADER)
            header = _BEFORE.search(text, start, found.start())
            known = header and self._attach(found[1], header[1] or UNKNOWN)
            if header and known:
                parts += [text[done : header.start()], known]
                done = found.end()
        return "".join([*parts, text[done:]]) if parts else text

    def mapping(self, mapping: dict[str, object], under: str = "") -> dict[str, object]:
        """Return a mapping with references in it: for what says that it is base64, too."""
        items = {key: self.value(item, key) for key, item in mapping.items()}
        if (encoded := base64_in(mapping, under)) is not None:
            key, kind = encoded
            items[key] = self._base64(str(mapping[key]), kind) or items[key]
        if all(items[key] is item for key, item in mapping.items()):
            return mapping
        shown = drawable(items) if "role" in items else items
        return shown if type(mapping) is dict else type(mapping)(shown)

    def _base64(self, text: str, kind: str) -> str | None:
        if len(text) < SHORTEST or _DATA_URI.match(text):  # a data URI names its type itself
            return None
        if (kind, text) not in self._known:
            self._known[kind, text] = self._attach(text, kind)
        return self._known[kind, text]

    def _attach(self, encoded: str, kind: str) -> str | None:
        """Return the reference for base64 text; None if it is not base64, or too short to be sure."""
        kind = kind.lower()
        size = len(encoded) * 3 // 4
        if size > self._left:
            self._report(f"{kind}, {size:,} bytes")
            return f"[attachment dropped ({kind}, {size:,} bytes): larger than a trace may hold]"
        content = _decoded(encoded)
        if not content or (kind == UNKNOWN and len(content) <= LITTLE):
            return None
        # Not uuid5, which hashes with SHA-1: where FIPS is enforced, there is none.
        identity = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16])
        if identity not in self.attachments:
            self.attachments[identity] = Attachment(self._trace_id, identity, content)
            self._left -= len(content)
        attachment = self.attachments[identity]
        return reference(str(identity), kind, mlflow_id(attachment.trace_id), len(content))


def _decoded(encoded: str) -> bytes | None:
    """Decode base64 as a whole, or not at all."""
    try:
        return _strictly_decoded(encoded)
    except ValueError:
        pass
    try:
        return _strictly_decoded(encoded.translate(_TIDY))
    except ValueError:
        return None


def _strictly_decoded(encoded: str) -> bytes:
    return b"".join(
        base64.b64decode(encoded[start : start + CHUNK], validate=True)
        for start in range(0, len(encoded), CHUNK)
    )
