"""The findings about an experiment that exists, is deleted, or does not exist."""

from __future__ import annotations

from langchain_mlflow_tracer.cli.doctor.finding import Finding, failed, ok
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["missing", "present"]


def present(identity: str, *, deleted: bool) -> Finding:
    """Return the finding about one that was found: MLflow accepts no traces for a deleted one."""
    if deleted:
        return failed(
            "experiment", f"it is deleted (id {identity})",
            f"Run: mlflow experiments restore --experiment-id {identity}. Or use another experiment.",
        )  # fmt: skip
    return ok("experiment", f"it exists (id {identity})")


def missing(destination: Destination) -> Finding:
    """Return the finding about one that was not found: an experiment with a name is created."""
    if destination.experiment_name is not None:
        return ok("experiment", f"{destination.experiment_name!r} does not exist: the first trace creates it")
    return failed(
        "experiment", f"no experiment has the id {destination.experiment_id or 0}",
        "Set MLFLOW_EXPERIMENT_ID to an id that exists, or set MLFLOW_EXPERIMENT_NAME instead.",
    )  # fmt: skip
