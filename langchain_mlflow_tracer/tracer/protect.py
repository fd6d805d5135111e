"""Sends the traces that MLflow itself makes outside of chains through a tracer's spool, if the user asks."""

from __future__ import annotations

import logging

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.mlflow_private import Gone
from langchain_mlflow_tracer.settings.destination import Destination, checked_tracking_uri
from langchain_mlflow_tracer.settings.installed_mlflow import check_database
from langchain_mlflow_tracer.settings.mlflow_variables import environment_experiment
from langchain_mlflow_tracer.tracer.current_destination import current_experiment
from langchain_mlflow_tracer.tracer.tracer import MlflowTracer

__all__ = ["protect_mlflow_tracing", "unprotect_mlflow_tracing"]

logger = logging.getLogger("langchain_mlflow_tracer")


def protect_mlflow_tracing(tracer: MlflowTracer | None = None) -> MlflowTracer:
    """Send the traces that start in MLflow (`@mlflow.trace`, `mlflow.start_span`) through the spool too.

    They are written to the spool of `tracer`, by default of a new `MlflowTracer()`, and sent to MLflow's own
    destination. So they are not lost while the server is down, and do not delay the end of the process. Their
    secrets are masked as in chains. `tracer.flush()` waits for them; `mlflow.flush_trace_async_logging()`
    does not. Not changed: traces of evaluations, which MLflow reads back at once, and traces to destinations
    that a tracer does not support. Imports mlflow. Returns the tracer. If this MLflow version is not
    supported, it logs a warning and changes nothing.

    Raises:
        ConfigurationError: the settings of a new tracer are wrong.
    """
    tracer = MlflowTracer() if tracer is None else tracer
    from langchain_mlflow_tracer.bridge import protection  # noqa: PLC0415 - nothing else needs it

    def accept(trace: TraceRecord, tracking_uri: str | None, experiment_id: str | None) -> None:
        uri = checked_tracking_uri("mlflow.set_tracking_uri", tracking_uri or "")
        name = None if experiment_id else environment_experiment()[0]
        tracer.deliver(trace, Destination(uri, name, experiment_id))

    try:
        protection.protect(accept, _is_supported, _experiment)
    except Gone as gone:
        logger.warning(
            "MLflow's own traces are not protected: this MLflow version is not supported (%s)", gone
        )
    return tracer


def unprotect_mlflow_tracing() -> None:
    """Undo `protect_mlflow_tracing`. Traces that are in the spool are still sent."""
    from langchain_mlflow_tracer.bridge import protection  # noqa: PLC0415

    protection.unprotect()


def _experiment() -> tuple[str | None, bool]:
    """Return the experiment id of a trace that MLflow starts now, and whether only its name is known.

    MLflow itself would ask the server for the id of that name, on the caller's thread, for minutes if the
    server does not answer (mlflow 3.17).
    """
    try:
        current = current_experiment()
    except (ConfigurationError, Gone):
        return None, False  # MLflow reports what is wrong
    name, identity = (None, current) if current else environment_experiment()
    return identity, name is not None


def _is_supported(tracking_uri: str) -> bool:
    try:
        uri = checked_tracking_uri("mlflow.set_tracking_uri", tracking_uri)
        if not Destination(uri).is_server:
            check_database("mlflow.set_tracking_uri", uri)
    except ConfigurationError:
        return False
    return True
