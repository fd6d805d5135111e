"""Prints times, and texts from elsewhere, for people at a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import click

from langchain_mlflow_tracer.cli.units import duration

__all__ = ["ago", "date", "plain", "rows", "shortened", "show_json"]


def show_json(document: object) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(document))


def rows(lines: Iterable[tuple[str, str]]) -> None:
    """Print a label and a text on each line, the texts in one column."""
    for label, text in lines:
        click.echo(f"{label:<12} {text}")


def plain(text: str) -> str:
    """Return the text on one line; characters that could move a terminal's cursor are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in " ".join(text.split())
    )


def shortened(text: str, most: int) -> str:
    """Return `text` as `plain` has it, in at most `most` characters."""
    line = plain(text[: most + 1])
    return line if len(line) <= most and len(text) <= most else line[: most - 1] + "…"


def date(when: float) -> str:
    """Return seconds since the epoch as a date and a time of day in the time zone of this process."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def ago(when: float) -> str:
    """Return how long ago a time in seconds since the epoch was."""
    return f"{duration(time.time() - when)} ago"
