"""The command `forward`: sends pending traces, once or as long as it runs."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Final

import click

from langchain_mlflow_tracer.cli import printing, units
from langchain_mlflow_tracer.cli.options import FAILED, NO_LIMIT, json_option, spool_option
from langchain_mlflow_tracer.cli.status import state
from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery import exporter
from langchain_mlflow_tracer.delivery.forwarder import Forwarder
from langchain_mlflow_tracer.settings.child_process import download_nothing, full_uris
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.installed_mlflow import INSTALL, NO_DATABASES, opens_databases
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["forward"]

TICK: Final = 0.1
"""Seconds between two checks of a spool that is being emptied."""

ENDING: Final = "Ending: traces that are not sent stay in the queue."

LAST_REQUEST: Final = 5.0
"""Seconds that the current request may still take: less than a container gets to end (30 s)."""


@click.command()
@spool_option
@json_option
@click.option("--watch", is_flag=True, help="Keep running and send every new trace, until Ctrl-C or SIGTERM.")
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="With --watch: after the signal to end, keep sending pending traces for at most so many seconds.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Without --watch: give up if no trace was sent for so many seconds.",
)
def forward(folder: Path, *, as_json: bool, watch: bool, linger: float, timeout: float) -> None:
    """Send every pending trace to the destination that it was recorded for.

    Credentials come from MLflow's environment variables. Exit code 0 if all traces were sent, 1 if some are
    left or were rejected; with --watch 0 after the signal to end.
    """
    download_nothing()
    log = Log(logging.getLogger("langchain_mlflow_tracer"))
    if watch:
        with _end_signals() as ending:
            delivered, refused = _stay(folder, log, linger, ending)
    else:
        with _sigterm_as_ctrl_c():
            shows = not as_json and sys.stderr.isatty()
            delivered, refused = _deliver(folder, log, timeout, shows=shows)
    left = state(folder)
    if as_json:
        printing.show_json({"delivered": delivered, "refused": refused, **asdict(left)})
    else:
        printing.rows(_lines(delivered, refused))
        printing.rows(left.lines())
    raise SystemExit(FAILED if not watch and (left.waiting or refused) else 0)


def _lines(delivered: int, refused: int) -> Iterator[tuple[str, str]]:
    yield "sent", units.traces(delivered)
    if refused:
        yield "now rejected", units.traces(refused)


def _deliver(folder: Path, log: Log, patience: float, *, shows: bool) -> tuple[int, int]:
    """Send until none is left, or none was sent for `patience` seconds; return how many: sent, rejected."""
    spool = Spool(folder, NO_LIMIT, repairs=False)
    before, dead = _left(spool), spool.figures.totals().dead
    with _forwarding(spool, log):
        _follow(spool, patience, before, shows=shows)
    left, refused = _left(spool), max(0, spool.figures.totals().dead - dead)
    spool.close()
    return max(0, before - left - refused), refused


def _left(spool: Spool) -> int:
    """How many traces are to be sent: those that were running when their process died, and the pending ones.

    In this order: the forwarder moves traces from the first to the second. In the other order, a trace that
    is moved meanwhile would not be counted.
    """
    return len(spool.running.of_dead_processes()) + spool.figures.waiting()


def _stay(folder: Path, log: Log, linger: float, ending: threading.Event) -> tuple[int, int]:
    """Send until `ending` is set, even if the folder or its file is deleted; return as `_deliver`."""
    spool = Spool(folder, NO_LIMIT, warn=lambda cause, text: log.report(cause, "%s", text))
    click.echo(f"Sending new traces of {folder}", err=True)
    with _forwarding(spool, log):
        ending.wait()
        click.echo(ENDING, err=True)
        _finish(spool, linger)
    spool.close()
    counts = log.counts()
    return counts.get("delivered", 0), counts.get("dead_letter", 0)


def _finish(spool: Spool, linger: float) -> None:
    """Wait until no trace is left, for `linger` seconds at most."""
    deadline = time.monotonic() + linger
    with contextlib.suppress(SpoolError):  # the forwarder logs it
        while time.monotonic() < deadline and _left(spool):
            time.sleep(TICK)


@contextlib.contextmanager
def _forwarding(spool: Spool, log: Log) -> Iterator[None]:
    """Send in the background, until the end or Ctrl-C."""
    uris = full_uris()
    _warn_without_database(spool)
    forwarder = Forwarder(
        spool,
        lambda text: exporter.make(Destination.from_text(text).with_credentials(uris), log),
        log,
    )
    forwarder.start()
    try:
        yield
    except KeyboardInterrupt:
        click.echo(ENDING, err=True)
    finally:
        forwarder.stop(LAST_REQUEST)


def _warn_without_database(spool: Spool) -> None:
    destinations = () if opens_databases() else spool.destinations()
    if not all(Destination.from_text(destination).is_server for destination in destinations):
        click.echo(f"Some traces cannot be sent from here: {NO_DATABASES}: {INSTALL}", err=True)


@contextlib.contextmanager
def _end_signals() -> Iterator[threading.Event]:
    """Yield an event that is set by Ctrl-C, or by SIGTERM, which systemd and Kubernetes send.

    The first signal interrupts nothing, even at the very start; a second one does.
    """
    ending = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ending.is_set():
            signal.default_int_handler(number, frame)
        ending.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow(spool: Spool, patience: float, total: int, *, shows: bool) -> None:
    """Wait, with a progress bar on a terminal."""
    with click.progressbar(length=total, label="Sending", file=sys.stderr, hidden=not shows) as bar:
        for left in _remaining(spool, patience):
            bar.update(total - left - bar.pos)


def _remaining(spool: Spool, patience: float) -> Iterator[int]:
    """Yield how many traces are left, until none is, or none was sent for `patience` seconds."""
    left, moved = _left(spool), time.monotonic()
    while left and time.monotonic() - moved < patience:
        time.sleep(TICK)
        now = _left(spool)
        left, moved = now, time.monotonic() if now < left else moved
        yield left
