"""Knows the database of MLflow's own, below its client: the store, and the revision of its schema."""

from __future__ import annotations

import importlib
from typing import Any

from langchain_mlflow_tracer.mlflow_private import gone

__all__ = ["open_store", "revision"]


def open_store(tracking_uri: str) -> Any:
    """Return the store that MLflow's client uses: it alone takes spans. Imports mlflow.

    Raises:
        Gone: the client has it elsewhere.
    """
    client: Any = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri)
    with gone():
        return client._tracking_client.store


def revision() -> str:
    """Return the revision of the schema that the mlflow installed here writes. Imports mlflow.

    Raises:
        Gone: the installed MLflow has no such name.
    """
    with gone():
        found: str = importlib.import_module("mlflow.store.db.utils")._get_latest_schema_revision()
        return found
