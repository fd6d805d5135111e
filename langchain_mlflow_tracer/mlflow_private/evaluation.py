"""Knows whether MLflow is at an evaluation, here and now."""

from __future__ import annotations

import sys
from typing import Final

from langchain_mlflow_tracer.mlflow_private import gone

__all__ = ["MODULE", "is_evaluating"]

MODULE: Final = "mlflow.pyfunc.context"
"""Whoever evaluates has imported it, and all of it; where it is not there, nobody need ask."""


def is_evaluating() -> bool:
    """Whether `mlflow.genai.evaluate` has called what runs here.

    Raises:
        Gone: MLflow keeps that elsewhere.
    """
    module = sys.modules.get(MODULE)
    with gone():
        context = None if module is None else module.get_prediction_context()
        return context is not None and bool(context.is_evaluate)
