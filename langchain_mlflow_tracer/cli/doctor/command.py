"""The command `doctor`: prints findings, and how to fix them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from langchain_mlflow_tracer.cli import printing
from langchain_mlflow_tracer.cli.doctor.examine import Finding, Outcome, examine
from langchain_mlflow_tracer.cli.options import FAILED, json_option, spool_option

__all__ = ["doctor"]

_COLOURS: Final = {Outcome.OK: "green", Outcome.WARNING: "yellow", Outcome.FAILED: "red"}


@click.command()
@spool_option
@click.option("--tracking-uri", help="The destination to check. Default: the environment variables.")
@click.option("--experiment", help="The experiment to check. Default: the environment variables.")
@json_option
def doctor(folder: Path, tracking_uri: str | None, experiment: str | None, *, as_json: bool) -> None:
    """Check why traces do not reach MLflow, and how to fix it.

    Checks the queue on disk, then the destinations of pending traces and the one in the options or the
    environment. Changes nothing. Exit code 0 if no check failed, otherwise 1.
    """
    findings = examine(folder, tracking_uri, experiment)
    outcomes = _printed_as_json(list(findings)) if as_json else _printed(findings)
    raise SystemExit(FAILED if Outcome.FAILED in outcomes else 0)


def _printed_as_json(findings: Sequence[Finding]) -> list[Outcome]:
    outcomes = [finding.outcome for finding in findings]
    printing.show_json({
        "ok": Outcome.FAILED not in outcomes,
        "checks": [asdict(finding) for finding in findings],
    })  # fmt: skip
    return outcomes


def _printed(findings: Iterator[Finding]) -> list[Outcome]:
    """Print each finding as soon as it is known, under the destination that it is about."""
    outcomes: list[Outcome] = []
    about = ""
    for finding in findings:
        if finding.about != about:
            about = finding.about
            click.echo(f"\n{printing.plain(about)}")
        _print(finding)
        outcomes.append(finding.outcome)
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome if outcome in outcomes)
    click.echo(f"\n{counts}")
    return outcomes


def _print(finding: Finding) -> None:
    outcome = click.style(f"{finding.outcome:<8}", fg=_COLOURS[finding.outcome])
    click.echo(f"{outcome} {finding.check:<13} {printing.plain(finding.found)}")
    if finding.advice:
        click.echo(f"{'':<22} → {printing.plain(finding.advice)}")
