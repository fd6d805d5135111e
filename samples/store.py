"""Select where the samples store their traces, and print how to open them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FLUSH_TIMEOUT = 60.0  # seconds; creating a new database takes about ten

FOLDER = Path(__file__).resolve().parent.parent / ".quickstart"


def prepare_store() -> None:
    """Store traces at MLFLOW_TRACKING_URI; without it, in a database in this repository."""
    # Use the price list that MLflow contains. Without this, the first lookup of a price downloads one.
    os.environ.setdefault("MLFLOW_MODEL_CATALOG_URI", "")
    if "MLFLOW_EXPERIMENT_ID" not in os.environ:
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", "samples")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        FOLDER.mkdir(exist_ok=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{FOLDER / 'mlflow.db'}"


def where_to_look() -> str:
    """Return how to open the traces in MLflow's user interface."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    if uri.startswith(("http", "databricks")):
        return f"See it in MLflow: {uri}"
    return f'See it in MLflow:\n\n    "{_python()}" -m mlflow ui --backend-store-uri "{uri}"'


def _python() -> Path:
    python = Path(sys.executable)
    return python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
