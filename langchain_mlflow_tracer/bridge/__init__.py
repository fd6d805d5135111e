"""Joins with the spans that MLflow makes itself, in both directions, where the application uses MLflow.

Imports neither mlflow nor OpenTelemetry before the application has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from langchain_mlflow_tracer.notices import Notices
from langchain_mlflow_tracer.recorder import Recorder

if TYPE_CHECKING:
    from langchain_mlflow_tracer.bridge.bridge import Bridge, Prepare

__all__ = ["connect"]


def connect(
    recorder: Recorder, prepare: Prepare, name: Callable[[bytes], object], notices: Notices
) -> tuple[Bridge | None, bool]:
    """Return a bridge between a recorder and the MLflow of this process, and whether there can be none.

    None, and False, while the application is still importing mlflow.
    """
    if _is_being_imported():
        return None, False
    from langchain_mlflow_tracer.bridge import names  # noqa: PLC0415 - mlflow is there, and OpenTelemetry
    from langchain_mlflow_tracer.bridge.bridge import Bridge  # noqa: PLC0415

    try:
        return Bridge(names.find(), recorder, prepare, name), False
    except names.Gone as gone:
        notices.warn(
            "bridge_off", "chains are traced, but MLflow's own spans stand apart: mlflow has changed (%s)",
            gone,
        )  # fmt: skip
        return None, True


def _is_being_imported() -> bool:
    spec = getattr(sys.modules.get("mlflow"), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
