"""The `langchain-mlflow-tracer` command: shows and sends the traces in a queue on disk (spool)."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from langchain_mlflow_tracer.cli.dead_letters import dead_letters
from langchain_mlflow_tracer.cli.doctor.command import doctor
from langchain_mlflow_tracer.cli.forward import forward
from langchain_mlflow_tracer.cli.status import status
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


for command in (status, forward, dead_letters, doctor):
    main.add_command(command)
