"""Reads where MLflow sends the traces of this process. Imports neither mlflow nor OpenTelemetry."""

from __future__ import annotations

from typing import Any

from langchain_mlflow_tracer.mlflow_private import gone, imported

__all__ = ["destination", "experiment_ids", "tracking_uri"]


def tracking_uri() -> object:
    """Return what `mlflow.set_tracking_uri` was given, None where nothing was.

    Raises:
        Gone: MLflow keeps it elsewhere.
    """
    # The global alone: mlflow.get_tracking_uri() would look at the disk where nothing was set.
    utils = imported("mlflow.tracking._tracking_service.utils")
    with gone():
        return None if utils is None else utils._tracking_uri


def destination() -> Any:
    """Return what `mlflow.tracing.set_destination` was given, here or for all; None where nothing was.

    Raises:
        Gone: MLflow keeps it elsewhere.
    """
    provider = imported("mlflow.tracing.provider")
    with gone():
        variable = None if provider is None else provider._MLFLOW_TRACE_USER_DESTINATION
        return None if variable is None else variable._context_local_value.get() or variable._global_value


def experiment_ids() -> tuple[object, ...]:
    """Return the experiments of the active run and of `mlflow.set_experiment`; None for what was not set.

    Raises:
        Gone: MLflow keeps one of them elsewhere.
    """
    fluent = imported("mlflow.tracking.fluent")
    with gone():
        return () if fluent is None else (_of_active_run(fluent), fluent._active_experiment_id)


def _of_active_run(fluent: Any) -> object:
    active = fluent._get_latest_active_run()
    return None if active is None else active.info.experiment_id
