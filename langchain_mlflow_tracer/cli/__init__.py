"""The `langchain-mlflow-tracer` command: shows and sends the traces in a queue on disk (spool)."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

# The modules, not their commands: a command of the same name would hide its module in this package.
from langchain_mlflow_tracer.cli import dead_letters, forward, status
from langchain_mlflow_tracer.cli.doctor import command as doctor_command
from langchain_mlflow_tracer.core.errors import TracerError

__all__ = ["main"]


class _Group(click.Group):
    """Prints errors of this package as messages."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TracerError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="langchain-mlflow-tracer", prog_name="langchain-mlflow-tracer")
def main() -> None:
    """Show and send the traces that are not in MLflow yet."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


for command in (status.status, forward.forward, dead_letters.dead_letters, doctor_command.doctor):
    main.add_command(command)
