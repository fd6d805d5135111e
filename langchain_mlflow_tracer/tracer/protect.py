"""Sends what MLflow traces itself, outside of chains, through a tracer's spool: an opt-in."""

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
    """Deliver the traces that begin in MLflow (`@mlflow.trace`, `mlflow.start_span`) as durably as chains.

    They go through the spool of `tracer`, or of a new `MlflowTracer()`, to where MLflow would send them:
    nothing is lost while the server is down, and the end of the process is not held. They are redacted as
    chains are. `tracer.flush()` waits for them; `mlflow.flush_trace_async_logging()` has nothing to wait for.
    Evaluations read their traces back at once, and are left as they are; so are destinations that a tracer
    does not know. Imports mlflow. Returns the tracer. Where this mlflow is not known, a warning says so, and
    nothing is changed.

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
        protection.protect(accept, _takes, _experiment)
    except Gone as gone:
        logger.warning("MLflow's own traces are not protected: mlflow has changed (%s)", gone)
    return tracer


def unprotect_mlflow_tracing() -> None:
    """Take back what `protect_mlflow_tracing` did; what was taken is delivered all the same."""
    from langchain_mlflow_tracer.bridge import protection  # noqa: PLC0415

    protection.unprotect()


def _experiment() -> tuple[str | None, bool]:
    """Return the id for a trace of MLflow's that begins now, and whether only the name is known, or nothing.

    MLflow would ask the server for what its environment says, on the caller's thread, for minutes if the
    server is dead (mlflow 3.17).
    """
    try:
        told = current_experiment()
    except (ConfigurationError, Gone):
        return None, False  # MLflow says what is wrong
    name, identity = (None, told) if told else environment_experiment()
    return identity, name is not None


def _takes(tracking_uri: str) -> bool:
    try:
        uri = checked_tracking_uri("mlflow.set_tracking_uri", tracking_uri)
        if not Destination(uri).is_server:
            check_database("mlflow.set_tracking_uri", uri)
    except ConfigurationError:
        return False
    return True
