"""Says whether the MLflow that is installed here opens databases; mlflow-tracing alone speaks to servers.

Nothing is imported for it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from typing import Final

from langchain_mlflow_tracer.core.errors import ConfigurationError

__all__ = ["INSTALL", "NO_DATABASES", "check_database", "opens_databases"]

INSTALL: Final = 'pip install "langchain-mlflow-tracer[mlflow]"'

NO_DATABASES: Final = (
    "a database (MLflow's default where nothing is named) needs the whole of MLflow,"
    " and mlflow-tracing alone is installed here"
)

_WHOLE: Final = ("mlflow", "mlflow-skinny")
"""Distributions with MLflow's client; with neither, MLflow leaves it out (mlflow 3.12 to 3.17)."""

_DATABASE: Final = ("sqlalchemy", "alembic")
"""What its store imports: mlflow brings both, mlflow-skinny leaves them to the user."""


@functools.cache
def opens_databases() -> bool:
    """Whether traces can be delivered into a database from here."""
    is_whole = any(_is_installed(name) for name in _WHOLE)
    return is_whole and all(importlib.util.find_spec(name) is not None for name in _DATABASE)


def check_database(argument: str, uri: str) -> None:
    """See that traces can be delivered from here into the database at `uri`, which has no credentials.

    Raises:
        ConfigurationError: they cannot be; the message names `argument` and what to install.
    """
    if not opens_databases():
        raise ConfigurationError(
            argument, uri, f"{NO_DATABASES}: {INSTALL}; or name a server, http(s)://host[:port]"
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
