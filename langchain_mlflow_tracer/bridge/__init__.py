"""Joins with the spans that MLflow makes itself, in both directions, where the application uses MLflow.

Imports neither mlflow nor OpenTelemetry before the application has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.mlflow_private import Gone, is_being_imported
from langchain_mlflow_tracer.recording.recorder import Recorder

if TYPE_CHECKING:
    from langchain_mlflow_tracer.bridge.bridge import Bridge, Prepare

__all__ = ["connect"]


def connect(
    recorder: Recorder, prepare: Prepare, name: Callable[[bytes], object], log: Log
) -> tuple[Bridge | None, bool]:
    """Return a bridge between a recorder and the MLflow of this process, and whether there can be none.

    None, and False, while the application is still importing mlflow.
    """
    if is_being_imported(sys.modules.get("mlflow")):
        return None, False

    def made() -> tuple[Bridge | None, bool]:
        from langchain_mlflow_tracer.bridge.bridge import Bridge  # noqa: PLC0415 - mlflow is there, and OpenTelemetry
        from langchain_mlflow_tracer.mlflow_private import tracing  # noqa: PLC0415

        return Bridge(tracing.find(), recorder, prepare, name, log), False

    def without(error: BaseException) -> tuple[Bridge | None, bool]:
        log.report(
            "bridge_off",
            "chains are traced, but not joined with MLflow's own spans:"
            " this mlflow version is not supported (%s)",
            error if isinstance(error, Gone) else type(error).__name__,
        )  # fmt: skip
        return None, True

    return attempt(made, without)
