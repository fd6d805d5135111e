"""Runs the sample of two services as a stranger does, and looks at the one trace that it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import TraceState
from mlflow.tracking import MlflowClient

from tests.support.stored import Shape, experiment_id, shape

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "distributed"

MODEL: Shape = ("model", "CHAIN", [("AzureChatOpenAI", "CHAT_MODEL", [])])
SERVICE: Shape = (
    "weather service",
    "CHAIN",
    [
        ("ChatPromptTemplate", "CHAIN", []),
        ("AzureChatOpenAI", "CHAT_MODEL", []),
        ("StrOutputParser", "PARSER", []),
    ],
)
TOOL: Shape = ("tools", "CHAIN", [("get_weather", "TOOL", [SERVICE])])


@pytest.mark.timeout(260)
def test_two_services_leave_one_trace_and_print_it(store_uri: str) -> None:
    ran = subprocess.run(
        [sys.executable, SAMPLE],
        env={**os.environ, "MLFLOW_TRACKING_URI": store_uri},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    (trace,) = MlflowClient(store_uri).search_traces([experiment_id(store_uri, "samples")])
    assert shape(trace) == ("traveller", "AGENT", [MODEL, TOOL, TOOL, MODEL])
    assert trace.info.state is TraceState.OK
    assert "rain at 11 °C" in str(trace.info.response_preview)
    usages = [span.get_attribute("mlflow.chat.tokenUsage") for span in trace.data.spans]
    assert [usage is not None for usage in usages].count(True) == 4
    total = sum(usage["total_tokens"] for usage in usages if usage)
    assert (trace.info.token_usage or {})["total_tokens"] == total
    lines = ran.stdout.splitlines()
    assert sum("└─ weather service" in line for line in lines) == 2
    assert any(line.startswith(f"= {trace.info.trace_id}  OK") for line in lines)
