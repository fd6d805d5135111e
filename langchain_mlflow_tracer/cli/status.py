"""The command `status`: what is in the queue on disk, and whether a sender is running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from langchain_mlflow_tracer.cli import printing, units
from langchain_mlflow_tracer.cli.options import NO_LIMIT, json_option, spool_option
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import Failed
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["State", "state", "status"]


@dataclass(frozen=True, slots=True)
class State:
    """The state of a spool; ages in seconds, sizes in bytes."""

    spool_dir: str
    forwarding: bool = False
    waiting: int = 0
    waiting_bytes: int = 0
    oldest_seconds: float | None = None
    running: int = 0
    dead_letters: int = 0
    disk_bytes: int = 0
    failures: tuple[Failed, ...] = ()

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield a label and a text for each line that people read."""
        yield "spool", self.spool_dir
        yield "pending", units.traces(self.waiting) + self._since()
        yield "running", units.traces(self.running)
        yield "rejected", units.traces(self.dead_letters) + self._see()
        yield "sender", "running" if self.forwarding else "not running"
        yield "on disk", units.size(self.disk_bytes)
        for failed in self.failures:
            yield (
                "last error",
                f"{printing.plain(failed.reason)} ({printing.ago(failed.latest)}, attempt {failed.attempts})",
            )

    def _since(self) -> str:
        if self.oldest_seconds is None:
            return ""
        return f", {units.size(self.waiting_bytes)}, the oldest is {units.duration(self.oldest_seconds)} old"

    def _see(self) -> str:
        return " (dead letters: see langchain-mlflow-tracer dead-letters list)" if self.dead_letters else ""


@click.command()
@spool_option
@json_option
def status(folder: Path, *, as_json: bool) -> None:
    """Show pending traces, their age and size, whether a sender is running, and the last error.

    Exit code 0 if the queue can be read, or does not exist; 1 if it cannot be read.
    """
    current = state(folder)
    if as_json:
        printing.show_json(asdict(current))
    else:
        printing.rows(current.lines())


def state(folder: Path) -> State:
    """Read the spool in `folder`; one that does not exist is empty, and is not created."""
    if not Spool.exists(folder):
        return State(str(folder))
    spool = Spool(folder, NO_LIMIT, repairs=False)
    try:
        totals = spool.figures.totals()
        return State(
            str(folder),
            forwarding=spool.is_drained(),
            waiting=totals.waiting,
            waiting_bytes=totals.size,
            oldest_seconds=_age(totals.oldest),
            running=totals.running,
            dead_letters=totals.dead,
            disk_bytes=totals.disk,
            failures=tuple(_for_people(failed) for failed in spool.figures.failures()),
        )
    finally:
        spool.close()


def _age(oldest: float | None) -> float | None:
    return None if oldest is None else round(max(0.0, time.time() - oldest), 3)


def _for_people(failed: Failed) -> Failed:
    uri = Destination.from_text(failed.destination).tracking_uri
    return Failed(uri, failed.reason, failed.since, failed.latest, failed.attempts)
