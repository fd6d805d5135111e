"""The commands `dead-letters list | show | retry | drop`: traces that were rejected permanently."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from langchain_mlflow_tracer.cli import printing, units
from langchain_mlflow_tracer.cli.options import NO_LIMIT, json_option, spool_option
from langchain_mlflow_tracer.cli.trace import Trace
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import DeadLetter
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["dead_letters"]

AT_ONCE: Final = 500
"""Dead letters in one statement: SQLite takes some thousands of values, and other processes wait."""

LIST: Final = "langchain-mlflow-tracer dead-letters list"

_keys = click.argument("keys", metavar="[KEY]...", nargs=-1)
_all = click.option("--all", "everything", is_flag=True, help="All rejected traces.")


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, retry or drop traces that were rejected permanently (dead letters).

    A KEY is the id of a trace, or the first characters of it if they are unique.
    """


@dead_letters.command("list")
@spool_option
@json_option
def list_(folder: Path, *, as_json: bool) -> None:
    """List rejected traces: key, age, size, name, destination and reason, the longest rejected first."""
    with _opened(folder) as spool:
        letters: Iterable[DeadLetter] = () if spool is None else spool.dead_letters
        if as_json:
            printing.show_json([_facts(letter) for letter in letters])
            return
        hint = "No rejected traces."
        for letter in letters:
            _print_briefly(letter)
            hint = "Details of one: show KEY. Send it again: retry KEY."
    click.echo(hint, err=True)


@dead_letters.command()
@spool_option
@json_option
@click.argument("key")
def show(folder: Path, key: str, *, as_json: bool) -> None:
    """Show why a trace was rejected, and its spans as a tree; with --json everything that was recorded."""
    with _opened(folder) as spool:
        (full_key,) = _resolved(spool, [key])
        letter = None if spool is None else spool.dead_letters.get(full_key)
    if letter is None:  # another command has just removed it
        return
    if as_json:
        printing.show_json({**_facts(letter), "spans": _spans(letter)})
    else:
        _print(letter)


@dead_letters.command()
@spool_option
@json_option
@_all
@_keys
def retry(folder: Path, keys: Sequence[str], *, everything: bool, as_json: bool) -> None:
    """Put rejected traces back into the queue, for the next sender."""
    with _opened(folder) as spool:
        chosen = _chosen(spool, keys, everything=everything)
        count = 0 if spool is None else _in_parts(spool.dead_letters.retry, chosen)
        alone = spool is not None and not spool.is_drained()
    if as_json:
        printing.show_json({"retried": count, "keys": chosen})
        return
    click.echo(f"{units.traces(count)} put back into the queue.")
    if count and alone:
        click.echo("No sender is running: run `langchain-mlflow-tracer forward`.", err=True)


@dead_letters.command()
@spool_option
@json_option
@_all
@click.option("--yes", is_flag=True, help="Do not ask for confirmation. Required if there is no terminal.")
@_keys
def drop(folder: Path, keys: Sequence[str], *, everything: bool, yes: bool, as_json: bool) -> None:
    """Delete rejected traces permanently, after a confirmation."""
    with _opened(folder) as spool:
        chosen = _chosen(spool, keys, everything=everything)
        if chosen and not yes:
            _ask(len(chosen))
        count = 0 if spool is None else _in_parts(spool.dead_letters.drop, chosen)
    if as_json:
        printing.show_json({"dropped": count, "keys": chosen})
    else:
        click.echo(f"{units.traces(count)} dropped.")


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Spool | None]:
    """Open the spool in `folder`; None if it does not exist: it is not created."""
    spool = Spool(folder, NO_LIMIT, repairs=False) if Spool.exists(folder) else None
    try:
        yield spool
    finally:
        if spool is not None:
            spool.close()


# Which traces.


def _chosen(spool: Spool | None, beginnings: Sequence[str], *, everything: bool) -> list[str]:
    """Return the keys that begin so, or all."""
    if bool(beginnings) == everything:
        raise click.UsageError("Give the KEYs of rejected traces, or --all.")
    if everything:
        return [] if spool is None else spool.dead_letters.keys()
    return _resolved(spool, beginnings)


def _resolved(spool: Spool | None, beginnings: Sequence[str]) -> list[str]:
    """Return the keys that begin so, each once; every beginning must be that of one key only."""
    known = [] if spool is None else spool.dead_letters.keys()
    return list(dict.fromkeys(_full_key(known, beginning) for beginning in beginnings))


def _full_key(known: Collection[str], beginning: str) -> str:
    if beginning in known:
        return beginning
    matches = [key for key in known if beginning and key.startswith(beginning)]
    if not matches:
        raise click.ClickException(
            f"No rejected trace has a key that begins with {beginning!r}: `{LIST}` lists them."
        )
    if len(matches) > 1:
        raise click.ClickException(
            f"{len(matches)} keys begin with {beginning!r}, such as {matches[0]} and {matches[1]}:"
            " give more of it."
        )
    return matches[0]


def _ask(count: int) -> None:
    """Ask before `count` traces are deleted."""
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal for a confirmation: give --yes to delete the traces.")
    click.confirm(f"Delete {units.traces(count)} permanently?", abort=True, err=True)


def _in_parts(change: Callable[[Collection[str]], int], keys: Sequence[str]) -> int:
    return sum(change(keys[start : start + AT_ONCE]) for start in range(0, len(keys), AT_ONCE))


# What is printed.


def _facts(letter: DeadLetter) -> dict[str, object]:
    trace = Trace.read(letter.payload)
    destination = Destination.from_text(letter.destination)
    return {
        "key": letter.key,
        "name": trace.name if trace else None,
        "created": letter.created,
        "died": letter.died,
        "bytes": len(letter.payload),
        "destination": destination.tracking_uri,
        "experiment_name": destination.experiment_name,
        "experiment_id": destination.experiment_id,
        "reason": letter.reason,
    }


def _spans(letter: DeadLetter) -> list[dict[str, object]] | None:
    trace = Trace.read(letter.payload)
    return None if trace is None else [span.facts() for span in trace.spans]


def _print_briefly(letter: DeadLetter) -> None:
    trace = Trace.read(letter.payload)
    name = printing.shortened(trace.name, 40) if trace else "(not readable)"
    click.echo(f"{letter.key}  {printing.ago(letter.died)}  {units.size(len(letter.payload))}  {name}")
    click.echo(f"  to      {Destination.from_text(letter.destination)}")
    click.echo(f"  reason  {printing.plain(letter.reason)}")


def _print(letter: DeadLetter) -> None:
    trace = Trace.read(letter.payload)
    printing.rows((
        ("key", letter.key),
        ("name", printing.plain(trace.name) if trace else "(not readable)"),
        ("recorded", f"{printing.date(letter.created)} ({printing.ago(letter.created)})"),
        ("rejected", f"{printing.date(letter.died)} ({printing.ago(letter.died)})"),
        ("size", units.size(len(letter.payload))),
        ("destination", str(Destination.from_text(letter.destination))),
        ("reason", printing.plain(letter.reason)),
    ))  # fmt: skip
    click.echo()
    for line in trace.tree() if trace else ("Its bytes are not a trace: it can only be dropped.",):
        click.echo(line)
