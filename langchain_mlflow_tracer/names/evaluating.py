"""Knows whether MLflow is at an evaluation, here and now."""

from __future__ import annotations

import sys

from langchain_mlflow_tracer.names import gone

__all__ = ["is_evaluating"]


def is_evaluating() -> bool:
    """Whether `mlflow.genai.evaluate` has called what runs here.

    Raises:
        Gone: MLflow keeps that elsewhere.
    """
    module = sys.modules.get("mlflow.pyfunc.context")  # whoever evaluates has imported all of it
    with gone():
        told = None if module is None else module.get_prediction_context()
        return told is not None and bool(told.is_evaluate)
