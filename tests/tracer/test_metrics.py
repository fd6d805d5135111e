"""Reads what tracers tell of themselves: as statistics, and as OpenTelemetry metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from langchain_core.runnables import RunnableLambda

from tests.conftest import MakeTracer, wait_for
from tests.support.faults import answering

ROOT = Path(__file__).resolve().parents[2]


def length(text: str) -> int:
    return len(text)


def test_statistics_count_recorded_spooled_and_delivered_traces(
    make_tracer: MakeTracer, store_uri: str
) -> None:
    tracer = make_tracer(store_uri)
    for _ in range(3):
        RunnableLambda(length).invoke("abc", {"callbacks": [tracer]})
    assert tracer.flush(60)
    assert tracer.stats() == {
        "recorded": 3, "spooled": 3, "delivered": 3, "waiting": 0, "dead_letters": 0, "dropped": {},
        "problems": {}, "last_error": None, "oldest_waiting_seconds": None,
    }  # fmt: skip


def test_statistics_have_the_number_age_and_error_of_pending_traces(make_tracer: MakeTracer) -> None:
    with answering(503) as address:
        tracer = make_tracer(address)
        RunnableLambda(length).invoke("abc", {"callbacks": [tracer]})
        wait_for(lambda: tracer.stats()["last_error"], 60)
        stats = tracer.stats()
    assert (stats["recorded"], stats["waiting"], stats["delivered"]) == (1, 1, 0)
    assert "/version answered 503" in str(stats["last_error"])
    assert 0 <= (stats["oldest_waiting_seconds"] or -1) < 60
    assert stats["problems"]["export_failed"] >= 1


def test_an_application_with_a_meter_provider_receives_the_metrics_of_the_tracer(tmp_path: Path) -> None:
    code = (
        "from opentelemetry.metrics import set_meter_provider\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader\n"
        "reader = InMemoryMetricReader(); set_meter_provider(MeterProvider([reader]))\n"
        "import time\n"
        "from langchain_core.runnables import RunnableLambda\n"
        "from langchain_mlflow_tracer import MlflowTracer\n"
        "tracer = MlflowTracer('http://127.0.0.1:9', forwarder='none')\n"
        "RunnableLambda(str).invoke(1, {'callbacks': [tracer]})\n"
        "while not tracer.stats()['spooled']: time.sleep(0.01)\n"
        "while reader.get_metrics_data() is None: time.sleep(0.01)\n"
        "found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0]\n"
        "print(found.scope.name)\n"
        "for metric in found.metrics: print(metric.name, metric.unit, metric.data.data_points[0].value > 0)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    scope, *metrics = ran.stdout.splitlines()
    assert scope == "langchain_mlflow_tracer"
    assert set(metrics) == {
        "langchain_mlflow_tracer.recorded {trace} True",
        "langchain_mlflow_tracer.spooled {trace} True",
        "langchain_mlflow_tracer.delivered {trace} False",
        "langchain_mlflow_tracer.dropped {trace} False",
        "langchain_mlflow_tracer.waiting {trace} True",
        "langchain_mlflow_tracer.dead_letters {trace} False",
        "langchain_mlflow_tracer.oldest_waiting s True",
    }
