"""Lets contestants take turns: in each round every one does the same, beside the untraced chain."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.cost.contestants import OURS
from benchmarks.cost.crew import Member, hired
from benchmarks.cost.figures import Added, added
from benchmarks.cost.rows import Row, added_at_most, kept_at_least

__all__ = ["Measured", "measured"]

QUICK: Final = 4
"""How many times fewer rounds a quick run has, but at least `FEWEST`."""

FEWEST: Final = 2

_folders = itertools.count()


@dataclass(frozen=True)
class Measured:
    """A row's figures, by contestant."""

    row: Row
    figures: Mapping[str, Added]
    delivered: Mapping[str, Mapping[str, int]]
    """Requests and bytes that arrived in the sink of each."""

    @property
    def is_within(self) -> bool:
        """Whether ours is within its bound."""
        ours = self.figures[self.row.ours]
        return kept_at_least(self.row, ours.ratio) if self.row.share else added_at_most(self.row, ours.more)


def measured(row: Row, pythons: Mapping[str, str], folder: Path, *, quick: bool) -> Measured:
    """Measure one row."""
    wanted = [name for name in pythons if not name.startswith(OURS) or name == row.ours]
    rounds = max(FEWEST, row.rounds // QUICK) if quick else row.rounds
    times: dict[str, list[float]] = {name: [] for name in wanted}
    delivered: dict[str, dict[str, int]] = {}
    with contextlib.ExitStack() as stack:
        crew: dict[str, Member] = {}
        for _ in range(rounds):
            for name in list(times):
                try:
                    if row.fresh:
                        with hired(name, pythons[name], folder / f"{next(_folders)}") as member:
                            times[name].append(turn(row, member))
                            delivered[name] = member.delivered()
                        continue
                    if name not in crew:
                        place = folder / f"{next(_folders)}"
                        crew[name] = stack.enter_context(hired(name, pythons[name], place))
                        crew[name].told(row.task, **row.arguments)  # the first pays for what is loaded once
                        crew[name].told("flush")
                    times[name].append(turn(row, crew[name]))
                except RuntimeError as error:
                    if name in {"untraced", row.ours}:
                        raise
                    print(f"{row.name}: {error}", file=sys.stderr)
                    del times[name]
        delivered |= {name: member.delivered() for name, member in crew.items()}
    base: Sequence[float] = times["untraced"]
    return Measured(row, {name: added(mine, base) for name, mine in times.items()}, delivered)


def turn(row: Row, member: Member) -> float:
    """Return the figure of one turn; what it left to deliver is delivered before the next has its own."""
    figure = row.figure(member.told(row.task, **row.arguments))
    member.told("flush")
    return figure
