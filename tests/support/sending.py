"""Makes the exporters that tests send traces with."""

from __future__ import annotations

import logging

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.exporter import Exporter, make
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["exporter_to"]


def exporter_to(uri: str, experiment: str | None = None, experiment_id: str | None = None) -> Exporter:
    """Return an exporter that writes to the package's log."""
    return make(
        Destination(uri, experiment, experiment_id), Log(logging.getLogger("langchain_mlflow_tracer"))
    )
