"""Names what every command takes: the spool it is about, and whether a program reads what it prints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from langchain_mlflow_tracer.settings.settings import spool_dir_of_environment

__all__ = ["FAILED", "NO_LIMIT", "json_option", "spool_option"]

FAILED: Final = 1
"""The exit code when something is not as it should be."""

NO_LIMIT: Final = sys.maxsize
"""Bytes that a spool may have: an operator's command throws nothing away to make room."""

spool_option = click.option(
    "--spool-dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=spool_dir_of_environment,
    help="The folder in which traces wait. Default: LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR, else the folder that"
    " this user's tracers have by default.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
