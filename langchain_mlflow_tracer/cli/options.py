"""The options that all commands have: the folder of the queue, and JSON output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from langchain_mlflow_tracer.settings.spool_folder import spool_dir_of_environment

__all__ = ["FAILED", "NO_LIMIT", "json_option", "spool_option"]

FAILED: Final = 1
"""The exit code if there is a problem."""

NO_LIMIT: Final = sys.maxsize
"""Bytes that the spool may have: an operator's command deletes no trace to make room."""

spool_option = click.option(
    "--spool-dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=spool_dir_of_environment,
    help="The folder of the queue on disk (spool). Default: LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR, or the default"
    " folder of this user's tracers.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
