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

__all__ = ["Measured", "Stage", "measured"]

QUICK: Final = 10
"""How many times fewer rounds a quick run has, but at least `FEWEST`."""

FEWEST: Final = 2

_folders = itertools.count()


@dataclass(frozen=True)
class Measured:
    """A row's figures, by contestant."""

    row: Row
    figures: Mapping[str, Added]
    delivered: Mapping[str, Mapping[str, int]]
    """Requests and bytes that arrived in the sink of each process by then."""

    @property
    def is_within(self) -> bool:
        """Whether ours is within its bound."""
        ours = self.figures[self.row.ours]
        return kept_at_least(self.row, ours.ratio) if self.row.share else added_at_most(self.row, ours.more)


class Stage:
    """The processes of contestants; they live until the last row, so that each starts once."""

    def __init__(self, pythons: Mapping[str, str], folder: Path, lives: contextlib.ExitStack) -> None:
        self.pythons = pythons
        self._folder = folder
        self._lives = lives
        self._crew: dict[str, Member] = {}

    def turn(self, row: Row, name: str) -> tuple[float, dict[str, int]]:
        """Return the figure of one turn, and what had arrived of that contestant after it."""
        if row.fresh:
            with self._hired(name) as member:
                return _turn(row, member), member.delivered()
        if name not in self._crew:
            self._crew[name] = self._lives.enter_context(self._hired(name))
        return _turn(row, self._crew[name]), self._crew[name].delivered()

    def _hired(self, name: str) -> contextlib.AbstractContextManager[Member]:
        return hired(name, self.pythons[name], self._folder / f"{name}-{next(_folders)}")


def measured(row: Row, stage: Stage, *, quick: bool) -> Measured:
    """Measure one row. A peer that fails is said to have failed, and the rest goes on."""
    rounds = max(FEWEST, row.rounds // QUICK) if quick else row.rounds
    wanted = [name for name in stage.pythons if not name.startswith(OURS) or name == row.ours]
    times: dict[str, list[float]] = {name: [] for name in wanted}
    delivered: dict[str, dict[str, int]] = {}
    for number in range(rounds + (not row.fresh)):
        for name in list(times):
            try:
                figure, delivered[name] = stage.turn(row, name)
            except (RuntimeError, BrokenPipeError) as error:
                if name in {"untraced", row.ours}:
                    raise
                print(f"{row.name}: {name}: {error}", file=sys.stderr)
                del times[name]
            else:
                if number or row.fresh:  # the first round pays for what is loaded once
                    times[name].append(figure)
    base: Sequence[float] = times["untraced"]
    return Measured(row, {name: added(mine, base) for name, mine in times.items()}, delivered)


def _turn(row: Row, member: Member) -> float:
    figure = row.figure(member.told(row.task, **row.arguments))
    member.told("flush")  # what it left to deliver is delivered before the next has its turn
    return figure
