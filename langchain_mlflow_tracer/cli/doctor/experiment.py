"""Says what it means that an experiment is there, is deleted, or is not there; wherever it was looked for."""

from __future__ import annotations

from langchain_mlflow_tracer.cli.doctor.finding import Finding, failed, ok
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["missing", "present"]


def present(identity: str, *, deleted: bool) -> Finding:
    """Tell of an experiment that was found: MLflow keeps deleted ones, and takes no traces for them."""
    if deleted:
        return failed(
            "experiment", f"it is deleted (id {identity})",
            f"mlflow experiments restore --experiment-id {identity}; or name another experiment.",
        )  # fmt: skip
    return ok("experiment", f"it is there (id {identity})")


def missing(destination: Destination) -> Finding:
    """Tell of an experiment that was not found: one that is known by its name is made."""
    if destination.experiment_name is not None:
        return ok("experiment", f"{destination.experiment_name!r} is not there: the first trace makes it")
    return failed(
        "experiment", f"there is none with the id {destination.experiment_id or 0}",
        "Set MLFLOW_EXPERIMENT_ID to one that is there, or MLFLOW_EXPERIMENT_NAME instead.",
    )  # fmt: skip
