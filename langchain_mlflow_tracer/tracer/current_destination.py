"""Asks MLflow, where the application itself uses it, where its traces go now.

Never imports mlflow: what the application has not imported, it has not configured. Reads a few values
from memory, so a trace may ask when its root starts.
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

    What was given to the tracer stands. Otherwise `mlflow.set_tracking_uri`, and for the experiment
    `mlflow.tracing.set_destination`, `MLFLOW_TRACING_DESTINATION`, the active run and `mlflow.set_experiment`
    count, as they do for MLflow's own traces, before the rest of the environment and MLflow's defaults
    (precedence as in mlflow 3.17, `get_experiment_id_for_trace`).

    Raises:
        ConfigurationError: MLflow was told of a place that this package does not deliver to, or
            it is a database, and nothing that is installed here opens one.
        Gone: MLflow keeps what it was told elsewhere.
    """
    destination = _told(settings) if "mlflow" in sys.modules else settings.destination
    if not destination.is_server and settings.forwarder != "none":  # else others deliver, with what they have
        check_database("tracking_uri", destination.without_credentials().tracking_uri)
    return destination


def _told(settings: Settings) -> Destination:
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
    """Return the id of the experiment that MLflow was told of for its traces; None where it was told nothing.

    In its order: its destination, the active run, set_experiment; not what the environment says otherwise.

    Raises:
        ConfigurationError: its destination is no experiment.
        Gone: MLflow keeps what it was told elsewhere.
    """
    destination = configured.destination()
    first = traces_experiment() if destination is None else getattr(destination, "experiment_id", None)
    return next((one for one in (first, *configured.experiment_ids()) if isinstance(one, str) and one), None)
