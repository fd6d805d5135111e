"""Reads where MLflow sends traces now, if the application itself uses MLflow.

Never imports mlflow: an application that has not imported it has not configured it. Reads a few values in
memory only, so it can be called when a root starts.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from langchain_mlflow_tracer.mlflow_private import configured
from langchain_mlflow_tracer.settings.destination import Destination, checked_tracking_uri
from langchain_mlflow_tracer.settings.installed_mlflow import check_database
from langchain_mlflow_tracer.settings.mlflow_variables import traces_experiment
from langchain_mlflow_tracer.settings.settings import Settings

__all__ = ["current_destination", "current_experiment"]


def current_destination(settings: Settings) -> Destination:
    """Return where a trace that starts now goes.

    The tracer's own arguments come first. Otherwise `mlflow.set_tracking_uri`, and for the experiment
    `mlflow.tracing.set_destination`, `MLFLOW_TRACING_DESTINATION`, the active run and `mlflow.set_experiment`
    count, as they do for MLflow's own traces, before the rest of the environment and MLflow's defaults
    (precedence as in mlflow 3.17, `get_experiment_id_for_trace`).

    Raises:
        ConfigurationError: this package cannot send to the destination set in MLflow, or it is a database
            and the extra that opens one is not installed.
        Gone: this MLflow version keeps these values elsewhere.
    """
    destination = _set_in_mlflow(settings) if "mlflow" in sys.modules else settings.destination
    if not destination.is_server and settings.forwarder != "none":  # else another installation sends
        check_database("tracking_uri", destination.without_credentials().tracking_uri)
    return destination


def _set_in_mlflow(settings: Settings) -> Destination:
    destination = settings.destination
    if not settings.pinned_uri and (uri := _tracking_uri()) is not None:
        destination = replace(destination, tracking_uri=uri)
    if not settings.pinned_experiment and (identity := current_experiment()) is not None:
        destination = replace(destination, experiment_name=None, experiment_id=identity)
    return destination


def _tracking_uri() -> str | None:
    uri = configured.tracking_uri()
    if not isinstance(uri, str) or not uri:
        return None
    return checked_tracking_uri("mlflow.set_tracking_uri", uri)


def current_experiment() -> str | None:
    """Return the id of the experiment that is set in MLflow for traces; None if none is set.

    In MLflow's order: its trace destination, the active run, `mlflow.set_experiment`; no other environment
    variable than `MLFLOW_TRACING_DESTINATION`.

    Raises:
        ConfigurationError: MLflow's trace destination is no experiment.
        Gone: this MLflow version keeps these values elsewhere.
    """
    destination = configured.destination()
    first = traces_experiment() if destination is None else getattr(destination, "experiment_id", None)
    return next(
        (value for value in (first, *configured.experiment_ids()) if isinstance(value, str) and value), None
    )
