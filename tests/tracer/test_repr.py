"""Shows a tracer in a debugger or a log: where its traces go, and no secret."""

from __future__ import annotations

import pytest

from tests.conftest import MakeTracer


@pytest.mark.parametrize(
    "uri",
    [
        "http://ada:hunter2@mlflow.example:5000",
        "https://ada:hunter2@mlflow.example/prefix",
        "sqlite:////tmp/mlflow.db?key=hunter2",
    ],
)
def test_the_repr_of_a_tracer_is_one_line_without_credentials(uri: str, make_tracer: MakeTracer) -> None:
    tracer = make_tracer(uri, "two\nlines", forwarder="none")
    assert "hunter2" not in repr(tracer)
    assert "\n" not in repr(tracer)
    assert repr(tracer).startswith("<MlflowTracer to ")
    assert "mlflow" in repr(tracer)


def test_the_repr_of_a_closed_tracer_contains_the_word_off(make_tracer: MakeTracer) -> None:
    tracer = make_tracer("http://127.0.0.1:9", forwarder="none")
    tracer.close()
    assert repr(tracer) == "<MlflowTracer to http://127.0.0.1:9, off>"
