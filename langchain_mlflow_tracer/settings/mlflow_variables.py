"""Reads from `MLFLOW_*` variables where traces go, where our own settings do not name it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.settings.destination import Destination, checked_tracking_uri

__all__ = ["URI", "destination", "environment_experiment", "traces_experiment", "tracking_uri"]

URI: Final = "MLFLOW_TRACKING_URI"
_TRACES: Final = "MLFLOW_TRACING_DESTINATION"

_DEFAULT: Final = "sqlite:///mlflow.db"
"""MLflow's own default: a database in the current folder."""


def destination(
    uri: str | None, experiment: str | None, environ: Mapping[str, str], origin: str = "tracking_uri"
) -> Destination:
    """Return the destination with `uri` and `experiment`; MLflow's variables, or its default, for None.

    Raises:
        ConfigurationError: `uri`, which `origin` is the name of, or a variable is wrong.
    """
    checked = tracking_uri(uri, environ, origin)
    if experiment:
        return Destination(checked, experiment)
    if identity := traces_experiment(environ):
        return Destination(checked, None, identity)
    return Destination(checked, *environment_experiment(environ))


def tracking_uri(uri: str | None, environ: Mapping[str, str], origin: str = "tracking_uri") -> str:
    """Return `uri` checked; MLflow's own for None."""
    if uri is not None:
        return checked_tracking_uri(origin, uri)
    return checked_tracking_uri(URI, environ.get(URI) or _DEFAULT)


def traces_experiment(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the id of the experiment that `MLFLOW_TRACING_DESTINATION` names, if it is set (mlflow 3.17).

    Raises:
        ConfigurationError: it names a schema of Databricks' Unity Catalog, to which we do not send.
    """
    identity = environ.get(_TRACES)
    if identity and "." in identity:
        raise ConfigurationError(_TRACES, identity, "expected the id of an experiment")
    return identity or None


def environment_experiment(environ: Mapping[str, str] = os.environ) -> tuple[str | None, str | None]:
    """Return the name of the experiment that MLflow's variables name, or else its id, or neither."""
    name = environ.get("MLFLOW_EXPERIMENT_NAME") or None
    return name, None if name else environ.get("MLFLOW_EXPERIMENT_ID") or None
