"""Links versions of prompts in MLflow's registry to the traces of the runs that say they use them.

A run says so in its metadata, which LangChain takes from templates, models, nodes and configs alike; MLflow
says it of a span inside which a prompt is loaded (mlflow 3.12 to 3.17).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from langchain_mlflow_tracer.core.attributes import LINKED_PROMPTS
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord

__all__ = ["KEY", "Version", "link", "read", "say"]

KEY: Final = "mlflow_prompt"
"""In a run's metadata: the address of a prompt's version, as `prompt.uri` has it, or a list of them."""

MOST: Final = 14
"""Versions in a trace's tag: so many of the longest names (250 characters) fit into its 4,096."""

Version = tuple[str, str]
"""A prompt's name, and its version."""

_ADDRESS: Final = re.compile(r"prompts:/([^/@]+)/(\d+)")

_NO_VERSION: Final = (
    "a prompt is not linked: %s takes an address with a version, prompts:/name/1 (prompt.uri)"
)


def say(span: SpanRecord, told: object, log: Log) -> None:
    """Let a run say which prompts it uses, from what its metadata hold under `KEY`."""
    listed = told if isinstance(told, list | tuple) else (told,)
    versions = [version for one in listed if (version := _version(one)) is not None]
    if len(versions) < len(listed):
        log.report("prompt_without_version", _NO_VERSION, KEY)
    if versions:
        # Later: what MLflow writes to the run while it is open would take its place.
        span.deferred += (functools.partial(_attach, versions),)


def _version(told: object) -> Version | None:
    address = attempt(lambda: getattr(told, "uri", told), lambda _: None)
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    return None if match is None else (match[1], match[2])


def _attach(versions: Sequence[Version], span: SpanRecord) -> None:
    span.attributes[LINKED_PROMPTS] = _text([*read(span.attributes.get(LINKED_PROMPTS)), *versions])


def link(trace: TraceRecord) -> None:
    """Say of a trace what its spans say, for people and for who delivers it; each span says what is new."""
    said = {
        span.span_id: told
        for span in trace.spans
        if (told := span.attributes.get(LINKED_PROMPTS)) is not None
    }
    if not said:
        return
    versions = [*read(trace.tags.get(LINKED_PROMPTS)), *(one for told in said.values() for one in read(told))]
    trace.tags = {**trace.tags, LINKED_PROMPTS: _text([*dict.fromkeys(versions)][:MOST])}
    for span in trace.spans:
        if span.parent_id in said and said.get(span.span_id) == said[span.parent_id]:
            del span.attributes[LINKED_PROMPTS]  # metadata are inherited


def read(told: object) -> list[Version]:
    """Return the versions that an attribute or a tag lists: JSON text, or what was made of it."""
    listed = attempt(lambda: json.loads(told), lambda _: None) if isinstance(told, str) else told
    entries = listed if isinstance(listed, list) else []
    return [(str(one["name"]), str(one["version"])) for one in entries if _is_version(one)]


def _is_version(one: object) -> bool:
    return isinstance(one, dict) and {"name", "version"} <= one.keys()


def _text(versions: Iterable[Version]) -> str:
    return json.dumps([{"name": name, "version": version} for name, version in dict.fromkeys(versions)])
