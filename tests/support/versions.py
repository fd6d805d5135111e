"""Knows what the oldest MLflow and LangChain cannot do yet, and what mlflow-tracing cannot do alone."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Final

import mlflow
import pytest
from langchain.agents import factory
from langchain_core.language_models import BaseChatModel

from langchain_mlflow_tracer.delivery.exporter import entities
from langchain_mlflow_tracer.settings.installed_mlflow import opens_databases

__all__ = ["AGENT", "HAS_V3", "SUMS_PARTS", "needs_graph_callbacks", "needs_v3", "needs_whole_mlflow"]

HAS_V3: Final = hasattr(BaseChatModel, "stream_events")

AGENT: Final = "AGENT" if "ls_integration" in inspect.getsource(factory) else "CHAIN"
"""The type of an agent's span; LangChain 1.0 does not say of a graph that it is one."""

SUMS_PARTS: Final = (entities.read_version(mlflow.__version__) or entities.OTLP_SINCE) >= entities.OTLP_SINCE
"""Whether MLflow adds the tokens of a part of a trace, from another process, to those of the trace."""

needs_v3 = pytest.mark.skipif(not HAS_V3, reason="this langchain-core has no streams of events of version 3")

needs_graph_callbacks = pytest.mark.skipif(
    find_spec("langgraph.callbacks") is None, reason="this langgraph tells nobody of checkpoints"
)

needs_whole_mlflow = pytest.mark.skipif(
    not opens_databases(), reason="mlflow-tracing alone has no runs and opens no databases"
)
