"""Formats the table for the terminal, and for a document between two markers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.cost.contestants import PEERS
from benchmarks.cost.run import Measured

__all__ = ["BEGIN", "DRAIN", "END", "as_json", "cells", "markdown", "terminal", "write_into"]

BEGIN: Final = "<!-- cost: begin -->"
END: Final = "<!-- cost: end -->"
DRAIN: Final = ("<!-- drain: begin -->", "<!-- drain: end -->")
"""The markers of the lines about bursts and real servers."""

HEAD: Final = (
    "row",
    "untraced",
    "empty adds",
    "best peer adds",
    "ours adds",
    "quartiles",
    "ratio",
    "bound",
    "",
)


def cells(one: Measured) -> tuple[str, ...]:
    """Return a row of the table as texts."""
    row, figures = one.row, one.figures
    ours = figures[row.ours]
    peers = {name: figures[name].more for name in PEERS if name in figures and _arrived(one, name)}
    best = min(peers, key=peers.__getitem__, default=None)
    bound = "-" if math.isinf(row.bound) else f"keeps {row.bound:.0%}" if row.share else f"{row.bound:g}"
    ratio = f"keeps {1 / ours.ratio:.0%}" if row.share and ours.ratio else _ratio(one, ours.ratio)
    return (
        f"{row.name} ({row.unit})",
        short(figures["untraced"].value),
        short(figures["empty"].more) if "empty" in figures else "-",
        f"{short(peers[best])} {best}" if best else "-",
        short(ours.more),
        f"{short(ours.low)} to {short(ours.high)}",
        ratio,
        bound,
        "" if math.isinf(row.bound) else "ok" if one.is_within else "OVER",
    )


def short(value: float) -> str:
    """Return a figure with three digits, without decimals from a hundred on."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004


def terminal(table: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns with a header."""
    lines = [HEAD, *table]
    widths = [max(len(line[at]) for line in lines) for at in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(measured: Sequence[Measured], about: str) -> str:
    """Return the table in Markdown, and a table of the overhead of each contestant."""
    names = [name for name in PEERS if any(name in result.figures for result in measured)]
    parts = [_table(HEAD, [cells(result) for result in measured])]
    if names:
        each = [
            (f"{result.row.name} ({result.row.unit})", short(result.figures[result.row.ours].more),
             *(_peer(result, name) for name in names))
            for result in measured
        ]  # fmt: skip
        parts += ["What each adds:", _table(("row", "ours", *names), each)]
    return "\n\n".join([*parts, about])


def write_into(document: Path, text: str, markers: tuple[str, str] = (BEGIN, END)) -> None:
    """Replace the text between two markers of a document.

    Raises:
        ValueError: the document has no such markers.
    """
    before, begin, rest = document.read_text("utf-8").partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not begin or not end:
        raise ValueError(f"{document} has no lines {' and '.join(markers)}: add them where the text belongs")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", "utf-8")


def as_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return all figures as plain data."""
    return [
        {
            "row": one.row.name, "unit": one.row.unit, "within": one.is_within,
            "delivered": dict(one.delivered),
            "figures": {name: vars(figure) for name, figure in one.figures.items()},
        }
        for one in measured
    ]  # fmt: skip


def _ratio(one: Measured, ratio: float) -> str:
    """Return the ratio, or none if an untraced process does nothing in this row: imports, children."""
    return "-" if one.row.task == "imported" or not one.figures["untraced"].value else f"{ratio:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _peer(one: Measured, name: str) -> str:
    if name not in one.figures:
        return "-"
    return short(one.figures[name].more) if _arrived(one, name) else "nothing arrived"


def _arrived(one: Measured, name: str) -> bool:
    """Whether traces of a contestant arrived; otherwise its figure means nothing. Imports send none."""
    return one.row.task == "imported" or _bytes(one.delivered.get(name, {})) > 0


def _bytes(counted: Mapping[str, int]) -> int:
    return counted.get("bytes", 0)
