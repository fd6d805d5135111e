"""Draws the overhead of each contestant from the figures: `python -m benchmarks.cost.chart JSON SVG`.

Run it in the environment with matplotlib.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

__all__ = ["DRAWN"]

DRAWN: Final = ("invoke, p50", "invoke, CPU of the process", "stream of 1,000 tokens", "agent, 40 rounds")
"""The rows that are drawn."""

COLOURS: Final = {"tracer": "#0b7285", "empty": "#adb5bd"}
PEER: Final = "#d9a066"


def main() -> None:
    """Write the chart."""
    source, target = map(Path, sys.argv[1:])
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update({"font.size": 13, "svg.fonttype": "none", "svg.hashsalt": "cost"})
    plot: Any = importlib.import_module("matplotlib.pyplot")
    rows = [row for row in json.loads(source.read_text("utf-8")) if row["row"] in DRAWN]
    figure, places = plot.subplots(len(rows), 1, figsize=(10, 3.0 * len(rows)), squeeze=False)
    for row, place in zip(rows, places[:, 0], strict=True):
        draw(place, row)
    figure.tight_layout()
    figure.savefig(target, facecolor="white", metadata={"Date": None})


def draw(place: Any, row: dict[str, Any]) -> None:
    """Draw one row as bars, the smallest first, with the figure at the end of each."""
    more = {name: one["more"] for name, one in row["figures"].items() if name != "untraced"}
    names = sorted(more, key=more.__getitem__, reverse=True)
    values = [max(more[name], 1e-3) for name in names]
    bars = place.barh(names, values, color=[COLOURS.get(name, PEER) for name in names])
    place.bar_label(bars, [f"{more[name]:.3g} {row['unit']}" for name in names], padding=4)
    place.set_xscale("log")
    place.set_title(f"{row['row']}: added to untraced, {row['unit']} (log scale)", loc="left")
    place.margins(x=0.15)
    place.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
