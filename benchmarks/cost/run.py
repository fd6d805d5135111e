"""Runs the contestants in turns: in each round each of them, and the untraced chain, runs the same task."""

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
"""A quick run has this many times fewer rounds, but at least `FEWEST`."""

FEWEST: Final = 2

_folders = itertools.count()


@dataclass(frozen=True)
class Measured:
    """The figures of a row for each contestant."""

    row: Row
    figures: Mapping[str, Added]
    delivered: Mapping[str, Mapping[str, int]]
    """Requests and bytes that the sink of each process has received by then."""

    @property
    def is_within(self) -> bool:
        """Whether this tracer is within its bound."""
        ours = self.figures[self.row.ours]
        return kept_at_least(self.row, ours.ratio) if self.row.share else added_at_most(self.row, ours.more)


class Stage:
    """The processes of the contestants; they run until the last row, so that each starts once."""

    def __init__(self, pythons: Mapping[str, str], folder: Path, lives: contextlib.ExitStack) -> None:
        self.pythons = pythons
        self._folder = folder
        self._lives = lives
        self._crew: dict[str, Member] = {}

    def turn(self, row: Row, name: str) -> tuple[float, dict[str, int]]:
        """Return the figure of one turn, and what the contestant's sink has received after it."""
        if row.fresh:
            with self._hired(name) as member:
                return _turn(row, member), member.delivered()
        if name not in self._crew:
            self._crew[name] = self._lives.enter_context(self._hired(name))
        return _turn(row, self._crew[name]), self._crew[name].delivered()

    def _hired(self, name: str) -> contextlib.AbstractContextManager[Member]:
        return hired(name, self.pythons[name], self._folder / f"{name}-{next(_folders)}")


def measured(row: Row, stage: Stage, *, quick: bool) -> Measured:
    """Measure one row. If a peer fails, print it and continue with the others."""
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
                if number or row.fresh:  # the first round includes one-time loading
                    times[name].append(figure)
    base: Sequence[float] = times["untraced"]
    return Measured(row, {name: added(mine, base) for name, mine in times.items()}, delivered)


def _turn(row: Row, member: Member) -> float:
    figure = row.figure(member.told(row.task, **row.arguments))
    member.told("flush")  # its traces must be sent before the turn of the next contestant
    return figure
