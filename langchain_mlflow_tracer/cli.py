"""Lets an operator see what waits in a spool, and deliver it: the `langchain-mlflow-tracer` command."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from langchain_mlflow_tracer import exporter
from langchain_mlflow_tracer.destination import Destination
from langchain_mlflow_tracer.errors import SpoolError
from langchain_mlflow_tracer.forwarder import Forwarder
from langchain_mlflow_tracer.notices import Notices
from langchain_mlflow_tracer.settings import full_uris, spool_dir_of_environment
from langchain_mlflow_tracer.spool import Spool

__all__ = ["main"]

FAILED: Final = 1
"""The exit code when something still waits, was refused for ever, or the spool could not be read."""

TICK: Final = 0.1
"""Seconds between two looks at a spool that is being emptied."""

NO_LIMIT: Final = sys.maxsize
"""An operator's command never throws anything away."""

_spool_option = click.option(
    "--spool-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder in which traces wait. Default: LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR, else the folder that"
    " this user's tracers have by default.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="langchain-mlflow-tracer", prog_name="langchain-mlflow-tracer")
def main() -> None:
    """See and deliver the traces that wait for MLflow."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


@main.command()
@_spool_option
@_json_option
def status(spool_dir: Path | None, *, as_json: bool) -> None:
    """Say what is waiting, how old and how large it is, and the last error.

    Exit code 0 when that could be told (also where nothing ever waited), 1 when the spool cannot be read.
    """
    folder = spool_dir or spool_dir_of_environment()
    try:
        _show(_described(folder), as_json=as_json)
    except SpoolError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@_spool_option
@_json_option
@click.option("--watch", is_flag=True, help="Stay and deliver whatever comes, until interrupted.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Without --watch: give up after so many seconds in which nothing was delivered.",
)
def forward(spool_dir: Path | None, *, as_json: bool, watch: bool, timeout: float) -> None:
    """Deliver what waits, to where it belongs.

    Credentials come from MLflow's own environment variables. Exit code 0 when everything was delivered, 1
    when something is left or was refused for ever.
    """
    folder = spool_dir or spool_dir_of_environment()
    try:
        with_progress = not as_json and sys.stderr.isatty()
        found = _forward(folder, None if watch else timeout, with_progress=with_progress)
    except SpoolError as error:
        raise click.ClickException(str(error)) from error
    _show(found, as_json=as_json)
    raise SystemExit(FAILED if found["waiting"] or found["refused"] else 0)


def _forward(folder: Path, patience: float | None, *, with_progress: bool) -> dict[str, object]:
    """Empty the spool; return what was done and what is left. Without patience: until interrupted."""
    spool = Spool(folder, NO_LIMIT, mends=False)
    before = spool.totals()
    uris = full_uris()
    notices = Notices(logging.getLogger("langchain_mlflow_tracer"))
    forwarder = Forwarder(
        spool, lambda text: exporter.make(Destination.from_text(text).with_credentials(uris)), notices
    )
    forwarder.start()
    try:
        _watch(spool, patience, before.waiting, with_progress=with_progress)
    except KeyboardInterrupt:
        click.echo("Interrupted: what is left stays in the spool.", err=True)
    finally:
        forwarder.stop(timeout=5.0)
    after = spool.totals()
    spool.close()
    refused = after.dead - before.dead
    delivered = max(0, before.waiting - after.waiting - refused)
    return {"delivered": delivered, "refused": refused, **_described(folder)}


def _watch(spool: Spool, patience: float | None, total: int, *, with_progress: bool) -> None:
    """Follow the emptying, with a bar on a terminal."""
    hidden = not with_progress or patience is None
    with click.progressbar(length=total, label="Delivering", file=sys.stderr, hidden=hidden) as bar:
        for left in _remaining(spool, patience):
            bar.update(total - left - bar.pos)


def _remaining(spool: Spool, patience: float | None) -> Iterator[int]:
    """Tell now and then how many traces are left, until none is or nothing moves for too long."""
    left, moved = spool.totals().waiting, time.monotonic()
    while patience is None or (left and time.monotonic() - moved < patience):
        time.sleep(TICK)
        now = spool.totals().waiting
        left, moved = now, time.monotonic() if now < left else moved
        yield left


def _described(folder: Path) -> dict[str, object]:
    """What there is to say of the spool in `folder`; one that is not there is empty."""
    if not Spool.exists(folder):
        return {"spool_dir": str(folder), "waiting": 0, "waiting_bytes": 0, "oldest_seconds": None,
                "dead_letters": 0, "disk_bytes": 0, "failures": []}  # fmt: skip
    spool = Spool(folder, NO_LIMIT, mends=False)
    totals, failures = spool.totals(), spool.failures()
    spool.close()
    return {
        "spool_dir": str(folder),
        "waiting": totals.waiting,
        "waiting_bytes": totals.size,
        "oldest_seconds": None if totals.oldest is None else round(max(0.0, time.time() - totals.oldest), 3),
        "dead_letters": totals.dead,
        "disk_bytes": totals.disk,
        "failures": [
            {**asdict(one), "destination": Destination.from_text(one.destination).tracking_uri}
            for one in failures
        ],
    }


def _show(found: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    for label, text in _lines(found):
        click.echo(f"{label:<12} {text}")


def _lines(found: dict[str, object]) -> Iterator[tuple[str, str]]:
    yield "spool", str(found["spool_dir"])
    if "delivered" in found:
        yield "delivered", _traces(found["delivered"])
    if found.get("refused"):
        yield "refused", f"{_traces(found['refused'])}, now among the dead letters"
    age = found["oldest_seconds"]
    since = "" if age is None else f", {_bytes(found['waiting_bytes'])}, the oldest for {_duration(age)}"
    yield "waiting", _traces(found["waiting"]) + since
    yield "dead letters", _traces(found["dead_letters"])
    yield "on disk", _bytes(found["disk_bytes"])
    failures = found["failures"]
    for failed in failures if isinstance(failures, list) else []:
        ago = _duration(time.time() - failed["latest"])
        yield "last error", f"{failed['reason']} ({ago} ago, attempt {failed['attempts']})"


def _traces(count: object) -> str:
    return f"{count} trace{'' if count == 1 else 's'}"


def _bytes(count: object) -> str:
    size = float(str(count))
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - decimal units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _duration(seconds: object) -> str:
    left = max(0, int(float(str(seconds))))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if left >= size:
            return f"{left / size:.1f} {unit}"
    return f"{left} s"


if __name__ == "__main__":
    main()
