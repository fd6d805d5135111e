"""The command `forward`: delivers what waits, once or for as long as it runs."""

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
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.installed_mlflow import INSTALL, NO_DATABASES, opens_databases
from langchain_mlflow_tracer.settings.settings import download_nothing, full_uris
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["forward"]

TICK: Final = 0.1
"""Seconds between two looks at a spool that is being emptied."""

ENDING: Final = "Ending: what is not delivered stays in the spool."

LAST_REQUEST: Final = 5.0
"""Seconds that a request on its way may still take: less than a container is given to end (30 s)."""


@click.command()
@spool_option
@json_option
@click.option("--watch", is_flag=True, help="Stay and deliver whatever comes, until Ctrl-C or SIGTERM.")
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="With --watch: when told to end, deliver what waits, for so many seconds at most.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Without --watch: give up after so many seconds in which nothing was delivered.",
)
def forward(folder: Path, *, as_json: bool, watch: bool, linger: float, timeout: float) -> None:
    """Deliver what waits, to where it belongs.

    Credentials come from MLflow's own environment variables. Exit code 0 when everything was delivered, 1
    when something is left or was refused for ever; with --watch 0 when it was told to end.
    """
    download_nothing()
    log = Log(logging.getLogger("langchain_mlflow_tracer"))
    if watch:
        with _told_to_end() as told:
            delivered, refused = _stay(folder, log, linger, told)
    else:
        with _sigterm_as_ctrl_c():
            shows = not as_json and sys.stderr.isatty()
            delivered, refused = _deliver(folder, log, timeout, shows=shows)
    left = state(folder)
    if as_json:
        printing.show_json({"delivered": delivered, "refused": refused, **asdict(left)})
    else:
        printing.rows(_told(delivered, refused))
        printing.rows(left.told())
    raise SystemExit(FAILED if not watch and (left.waiting or refused) else 0)


def _told(delivered: int, refused: int) -> Iterator[tuple[str, str]]:
    yield "delivered", units.traces(delivered)
    if refused:
        yield "refused", f"{units.traces(refused)}, now among the dead letters"


def _deliver(folder: Path, log: Log, patience: float, *, shows: bool) -> tuple[int, int]:
    """Empty the spool until nothing is left or nothing moves; return what was delivered, and refused."""
    spool = Spool(folder, NO_LIMIT, mends=False)
    before, dead = _left(spool), spool.totals().dead
    with _forwarding(spool, log):
        _follow(spool, patience, before, shows=shows)
    left, refused = _left(spool), max(0, spool.totals().dead - dead)
    spool.close()
    return max(0, before - left - refused), refused


def _left(spool: Spool) -> int:
    """How many traces are to be delivered: those that wait, and those that the dead left running, first.

    A forwarder lets these wait too: asked in the other order, one could be seen in neither place.
    """
    return len(spool.left_running()) + spool.waiting()


def _stay(folder: Path, log: Log, linger: float, told: threading.Event) -> tuple[int, int]:
    """Deliver until told to end, whatever becomes of the folder and its file; return as `_deliver`."""
    spool = Spool(folder, NO_LIMIT, tell=lambda cause, said: log.report(cause, "%s", said))
    click.echo(f"Delivering what comes to {folder}", err=True)
    with _forwarding(spool, log):
        told.wait()
        click.echo(ENDING, err=True)
        _finish(spool, linger)
    spool.close()
    counts = log.counts()
    return counts.get("delivered", 0), counts.get("dead_letter", 0)


def _finish(spool: Spool, linger: float) -> None:
    """Wait until nothing is left, for `linger` seconds at most."""
    deadline = time.monotonic() + linger
    with contextlib.suppress(SpoolError):  # the forwarder says so
        while time.monotonic() < deadline and _left(spool):
            time.sleep(TICK)


@contextlib.contextmanager
def _forwarding(spool: Spool, log: Log) -> Iterator[None]:
    """Deliver in the background, until the end or Ctrl-C."""
    uris = full_uris()
    _say_what_is_missing(spool)
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


def _say_what_is_missing(spool: Spool) -> None:
    waited_for = () if opens_databases() else spool.destinations()
    if not all(Destination.from_text(one).is_server for one in waited_for):
        click.echo(f"Some traces cannot be delivered from here: {NO_DATABASES}: {INSTALL}", err=True)


@contextlib.contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """Yield what is set by SIGTERM, by which systemd and Kubernetes end what they run, or by Ctrl-C.

    Whenever it comes, at the very start too, it interrupts nothing; a second one does.
    """
    told = threading.Event()

    def tell(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            signal.default_int_handler(number, frame)
        told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _follow(spool: Spool, patience: float, total: int, *, shows: bool) -> None:
    """Watch the emptying, with a bar on a terminal."""
    with click.progressbar(length=total, label="Delivering", file=sys.stderr, hidden=not shows) as bar:
        for left in _remaining(spool, patience):
            bar.update(total - left - bar.pos)


def _remaining(spool: Spool, patience: float) -> Iterator[int]:
    """Tell now and then how many traces are left, until none is or nothing moves for too long."""
    left, moved = _left(spool), time.monotonic()
    while left and time.monotonic() - moved < patience:
        time.sleep(TICK)
        now = _left(spool)
        left, moved = now, time.monotonic() if now < left else moved
        yield left
