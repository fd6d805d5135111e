"""Decodes a trace into MLflow's entities, for the ways of storing that need those instead of OTLP."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from langchain_mlflow_tracer.core.attributes import (
    CLIENT_REQUEST_ID,
    LINKED_PROMPTS,
    METADATA_PREFIX,
    REQUEST_PREVIEW,
    RESPONSE_PREVIEW,
    SESSION_ID,
    STATE,
    TAG_PREFIX,
    TRACE_INFO_KEYS,
    TRACE_SCHEMA,
    TRACE_SESSION,
    TRACE_TOKEN_USAGE,
    TRACE_USER,
    USER_ID,
)
from langchain_mlflow_tracer.core.errors import PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.prompts import read
from langchain_mlflow_tracer.encoding.payload import read_spans

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo

__all__ = [
    "DEFAULT_EXPERIMENT",
    "OLDEST_SERVER",
    "OTLP_SINCE",
    "PromptVersion",
    "dotted",
    "experiment_deleted",
    "has_metadata",
    "may_have_metadata",
    "may_have_prompts",
    "prompts",
    "read_version",
    "spans",
    "trace_info",
]

DEFAULT_EXPERIMENT: Final = "0"
"""The id of the experiment that every MLflow store has."""

OLDEST_SERVER: Final = (3, 12)
"""The oldest MLflow server that is tested. Older ones are sent no traces."""

OTLP_SINCE: Final = (3, 15)
"""The first MLflow that reads name, tags, session and user of a trace from its root span, and does not
count tokens twice if a trace is sent twice."""

MAX_METADATA: Final = 250
"""Characters of a key and of a value that MLflow's stores accept as metadata of a trace."""


def spans(payload: bytes) -> list[Span]:
    """Return the spans of an encoded trace, root first.

    Raises:
        PermanentExportError: the bytes are not a trace.
        Exception: mlflow cannot read the trace, or is not installed completely.
    """
    from mlflow.entities import Span  # noqa: PLC0415 - never on a caller's thread

    try:
        encoded = read_spans(payload)
    except DecodeError as error:
        raise PermanentExportError(f"not a trace: {error}") from error
    decoded = [Span.from_dict(_once_encoded(Span.from_otel_proto(span).to_dict())) for span in encoded]
    return sorted(decoded, key=lambda span: span.parent_id is not None)


def _once_encoded(span: dict[str, Any]) -> dict[str, Any]:
    """Take one layer of JSON off attributes that are JSON text: reading OTLP, MLflow adds one.

    Its own server does the same when it stores them (mlflow 3.17.2, `sanitize_attributes`).
    """
    span["attributes"] = {key: _unwrapped(text) for key, text in span["attributes"].items()}
    return span


def _unwrapped(text: str) -> str:
    try:
        inner = json.loads(text)
        return inner if isinstance(inner, str) and isinstance(json.loads(inner), dict | list) else text
    except ValueError:
        return text


def may_have_metadata(payload: bytes) -> bool:
    """Whether an encoded trace may have metadata of its own: most traces need not be decoded."""
    return METADATA_PREFIX.encode() in payload


def has_metadata(trace: Sequence[Span]) -> bool:
    """Whether the trace has metadata of its own, which OTLP does not carry as such."""
    return any(key.startswith(METADATA_PREFIX) for key in trace[0].attributes)


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A version of a prompt in MLflow's registry; named as MLflow's stores read it."""

    name: str
    version: str


def may_have_prompts(payload: bytes) -> bool:
    """Whether an encoded trace may name versions of prompts."""
    return LINKED_PROMPTS.encode() in payload


def prompts(trace: Sequence[Span]) -> list[PromptVersion]:
    """Return the versions of prompts that the trace used: its tag lists most, and each span its own."""
    keys = (f"{TAG_PREFIX}{LINKED_PROMPTS}", LINKED_PROMPTS)
    values = [span.attributes.get(key) for span in trace for key in keys]
    versions = dict.fromkeys(version for value in values for version in read(value))
    return [PromptVersion(name, version) for name, version in versions]


def trace_info(trace: Sequence[Span], experiment_id: str, *, with_tokens: bool = True) -> TraceInfo:
    """Return what MLflow stores of a trace besides its spans; without tokens if it sums them itself."""
    from mlflow.entities import TraceInfo, TraceLocation, TraceState  # noqa: PLC0415

    root = trace[0]
    attributes = root.attributes
    metadata = _prefixed(attributes, METADATA_PREFIX)
    fields = {key: metadata.pop(key, None) for key in TRACE_INFO_KEYS}
    metadata |= _own_metadata(trace, with_tokens=with_tokens)
    return TraceInfo(
        trace_id=root.trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=root.start_time_ns // 1_000_000,
        execution_duration=(root.end_time_ns - root.start_time_ns) // 1_000_000 if root.end_time_ns else None,
        state=TraceState(fields[STATE] or ("ERROR" if root.status.status_code.value == "ERROR" else "OK")),
        request_preview=fields[REQUEST_PREVIEW] or _preview(root.inputs, "user"),
        response_preview=fields[RESPONSE_PREVIEW] or _preview(root.outputs, "assistant"),
        client_request_id=fields[CLIENT_REQUEST_ID],
        trace_metadata={key[:MAX_METADATA]: value[:MAX_METADATA] for key, value in metadata.items()},
        tags=_prefixed(attributes, TAG_PREFIX),
    )


def _own_metadata(trace: Sequence[Span], *, with_tokens: bool) -> dict[str, str]:
    """Return the metadata that MLflow's client would write: schema, session, user, tokens."""
    from mlflow.tracing.utils import aggregate_usage_from_spans  # noqa: PLC0415

    attributes = trace[0].attributes
    keys = {TRACE_SESSION: SESSION_ID, TRACE_USER: USER_ID}
    metadata = {key: str(attributes[name]) for key, name in keys.items() if attributes.get(name)}
    # It is typed for live spans, but reads only what a stored span has too.
    spans_read: list[Any] = list(trace)
    if with_tokens and (usage := aggregate_usage_from_spans(spans_read)):
        metadata[TRACE_TOKEN_USAGE] = json.dumps(usage)
    return metadata | {TRACE_SCHEMA: "3"}


def experiment_deleted(name: str) -> TransientExportError:
    """Return the error for a deleted experiment; it may be restored, so the traces stay pending."""
    return TransientExportError(f"the experiment {name!r} is deleted: restore it, or use another one")


def read_version(text: str) -> tuple[int, int] | None:
    """Return the version at the start of a text, as MLflow writes its own; None if there is none."""
    match = re.match(r"\s*(\d+)\.(\d+)", text)
    return None if match is None else (int(match[1]), int(match[2]))


def dotted(version: tuple[int, int]) -> str:
    """Return a version as text, such as "3.15"."""
    return f"{version[0]}.{version[1]}"


def _prefixed(attributes: dict[str, Any], prefix: str) -> dict[str, str]:
    return {
        key.removeprefix(prefix): _as_text(item) for key, item in attributes.items() if key.startswith(prefix)
    }


def _as_text(value: object) -> str:
    """Return a text as it was recorded: MLflow decodes texts that are JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _preview(value: object, role: str) -> str | None:
    """Return the last text of `role` in a conversation, else the value, within MLflow's 1,000 characters."""
    if value is None:
        return None
    text = _last_text(value, role) or (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )
    return text if len(text) <= 1000 else text[:997] + "..."  # noqa: PLR2004 - MLflow's limit


def _last_text(value: object, role: str) -> str | None:
    if not isinstance(value, dict):
        return None
    choices = [choice.get("message") for choice in _listed(value, "choices") if isinstance(choice, dict)]
    texts = [
        _text(message.get("content"))
        for message in [*_listed(value, "messages"), *choices[:1]]
        if isinstance(message, dict) and message.get("role") == role
    ]
    return next((text for text in reversed(texts) if text), None)


def _listed(value: dict[str, object], key: str) -> list[object]:
    items = value.get(key)
    return items if isinstance(items, list) else []


def _text(content: object) -> str | None:
    """Return the text of a message; of one with blocks the first text: other blocks may be pictures."""
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = (block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text")
    return next((text for text in texts if isinstance(text, str)), None)
