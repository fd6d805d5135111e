"""Writes times and foreign text as people read them on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import click

from langchain_mlflow_tracer.cli.units import duration

__all__ = ["ago", "date", "plain", "rows", "shortened", "show_json"]


def show_json(found: object) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(found))


def rows(told: Iterable[tuple[str, str]]) -> None:
    """Print a label and a text on each line, the texts below each other."""
    for label, text in told:
        click.echo(f"{label:<12} {text}")


def plain(text: str) -> str:
    """Return foreign text on one line, with everything escaped that would move a terminal's cursor."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in " ".join(text.split())
    )


def shortened(text: str, most: int) -> str:
    """Return `text` as `plain` has it, in at most `most` characters."""
    told = plain(text[: most + 1])
    return told if len(told) <= most and len(text) <= most else told[: most - 1] + "…"


def date(when: float) -> str:
    """Return seconds since the epoch as a date and a time of day, where this process lives."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def ago(when: float) -> str:
    """Return how long ago a time in seconds since the epoch was."""
    return f"{duration(time.time() - when)} ago"
