"""Asks MLflow, where the application itself uses it, where its traces go now.

Never imports mlflow: what the application has not imported, it has not configured. Reads a few values
from memory, so a trace may ask when its root starts.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from langchain_mlflow_tracer.destination import Destination, checked_tracking_uri
from langchain_mlflow_tracer.settings import Settings

__all__ = ["current_destination"]


def current_destination(settings: Settings) -> Destination:
    """Return where a trace that starts now goes.

    What was given to the tracer stands. Otherwise `mlflow.set_tracking_uri`, `mlflow.tracing.set_destination`
    and the active run, and `mlflow.set_experiment` count, as they do for MLflow's own traces, before the
    environment and MLflow's defaults (precedence as in mlflow 3.17, `get_experiment_id_for_trace`).

    Raises:
        ConfigurationError: `mlflow.set_tracking_uri` named a place that this package does not deliver to.
    """
    destination = settings.destination
    if "mlflow" not in sys.modules:
        return destination
    if not settings.pinned_uri and (uri := _tracking_uri()) is not None:
        destination = replace(destination, tracking_uri=uri)
    if not settings.pinned_experiment and (identity := _experiment_id()) is not None:
        destination = replace(destination, experiment_name=None, experiment_id=identity)
    return destination


def _tracking_uri() -> str | None:
    # The global alone: mlflow.get_tracking_uri() would look at the disk where nothing was set.
    utils = sys.modules.get("mlflow.tracking._tracking_service.utils")
    uri = getattr(utils, "_tracking_uri", None)
    if not isinstance(uri, str) or not uri:
        return None
    return checked_tracking_uri("mlflow.set_tracking_uri", uri)


def _experiment_id() -> str | None:
    """What counts for MLflow's own traces, in its order: set_destination, the active run, set_experiment."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    destination = getattr(sys.modules.get("mlflow.tracing.provider"), "_MLFLOW_TRACE_USER_DESTINATION", None)
    here = getattr(destination, "_context_local_value", None)
    told = (here and here.get()) or getattr(destination, "_global_value", None)
    for identity in (
        getattr(told, "experiment_id", None),
        _experiment_of_active_run(fluent),
        getattr(fluent, "_active_experiment_id", None),
    ):
        if isinstance(identity, str) and identity:
            return identity
    return None


def _experiment_of_active_run(fluent: object) -> object:
    latest = getattr(fluent, "_get_latest_active_run", None)
    active = latest() if latest is not None else None
    return None if active is None else active.info.experiment_id
