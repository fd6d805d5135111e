"""Links prompt versions of MLflow's registry to the traces of the runs that use them.

A run names its prompts in its metadata, which LangChain takes from templates, models, nodes and configs.
MLflow itself names the prompts that are loaded inside a span (mlflow 3.12 to 3.17).
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

__all__ = ["KEY", "Version", "link", "link_to_run", "read"]

KEY: Final = "mlflow_prompt"
"""The key in a run's metadata; its value is the address of a prompt version (`prompt.uri`), or a list."""

MOST: Final = 14
"""The most versions in a trace's tag of 4,096 characters: a name has up to 250."""

Version = tuple[str, str]
"""The name and the version of a prompt."""

_ADDRESS: Final = re.compile(r"prompts:/([^/@]+)/(\d+)")

_NO_VERSION: Final = (
    "a prompt is not linked: %s must be an address with a version, as prompts:/name/1 (prompt.uri)"
)


def link_to_run(span: SpanRecord, addresses: object, log: Log) -> None:
    """Link a run to the prompts at `addresses`, which is the value of `KEY` in its metadata."""
    listed = addresses if isinstance(addresses, list | tuple) else (addresses,)
    versions = [version for address in listed if (version := _version(address)) is not None]
    if len(versions) < len(listed):
        log.report("prompt_without_version", _NO_VERSION, KEY)
    if versions:
        # Deferred: while the run is open, MLflow may write this attribute and would overwrite it.
        span.deferred += (functools.partial(_attach, versions),)


def _version(prompt: object) -> Version | None:
    address = attempt(lambda: getattr(prompt, "uri", prompt), lambda _: None)
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    return None if match is None else (match[1], match[2])


def _attach(versions: Sequence[Version], span: SpanRecord) -> None:
    span.attributes[LINKED_PROMPTS] = _text([*read(span.attributes.get(LINKED_PROMPTS)), *versions])


def link(trace: TraceRecord) -> None:
    """Copy the links of the spans to the trace; a span that has the same links as its parent loses them."""
    links = {
        span.span_id: text
        for span in trace.spans
        if (text := span.attributes.get(LINKED_PROMPTS)) is not None
    }
    if not links:
        return
    versions = read(trace.tags.get(LINKED_PROMPTS))
    for text in links.values():
        versions += read(text)
    trace.tags = {**trace.tags, LINKED_PROMPTS: _text([*dict.fromkeys(versions)][:MOST])}
    for span in trace.spans:
        if span.parent_id in links and links.get(span.span_id) == links[span.parent_id]:
            del span.attributes[LINKED_PROMPTS]  # LangChain passes metadata on to children


def read(value: object) -> list[Version]:
    """Return the versions that an attribute or a tag lists, as JSON text or decoded."""
    listed = attempt(lambda: json.loads(value), lambda _: None) if isinstance(value, str) else value
    entries = listed if isinstance(listed, list) else []
    return [(str(entry["name"]), str(entry["version"])) for entry in entries if _is_version(entry)]


def _is_version(entry: object) -> bool:
    return isinstance(entry, dict) and {"name", "version"} <= entry.keys()


def _text(versions: Iterable[Version]) -> str:
    return json.dumps([{"name": name, "version": version} for name, version in dict.fromkeys(versions)])
