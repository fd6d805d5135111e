"""Captures traces in memory as the tests of an application do, and compares them with what MLflow stores."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_openai import AzureChatOpenAI

from langchain_mlflow_tracer import ConfigurationError, MlflowTracer, install, uninstall
from langchain_mlflow_tracer.testing import capture_traces
from tests.conftest import MakeTracer
from tests.support.stored import root, stored_trace

PAGE = Path(__file__).resolve().parents[1] / "docs" / "testing.md"

SHOUT = RunnableLambda(lambda text: text.upper(), name="shout")

SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"


def fails(_: object) -> str:
    raise ValueError("no bears today")


class TestACapturedTrace:
    def test_a_trace_is_captured_when_its_run_ends(self) -> None:
        with capture_traces() as traces:
            assert list(traces) == []
            assert SHOUT.invoke("hello", {"callbacks": [traces.tracer]}) == "HELLO"
            (trace,) = traces
        assert (trace.name, trace.status, trace.outcome) == ("shout", "OK", "completed")
        assert trace.id == traces.tracer.last_trace_id
        assert (trace.root.inputs, trace.root.outputs) == ("hello", "HELLO")
        assert trace.root.start_ns <= trace.root.end_ns
        assert list(traces) == [trace]

    def test_a_trace_has_the_facts_of_its_config_and_of_the_arguments(self) -> None:
        config: RunnableConfig = {
            "run_name": "answer", "tags": ["beta"], "metadata": {"session_id": "s-17", "place": "[1]"},
        }  # fmt: skip
        with capture_traces(user_id="ada", tags={"team": "search"}, metadata={"version": "7"}) as traces:
            SHOUT.invoke("hello", {**config, "callbacks": [traces.tracer]})
        (trace,) = traces
        assert (trace.name, trace.session_id, trace.user_id) == ("answer", "s-17", "ada")
        assert trace.tags == {"team": "search", "beta": "true"}
        assert trace.metadata == {"version": "7", "place": "[1]"}
        assert trace.root.attributes == {}

    def test_spans_are_nested_as_the_runs_were(self) -> None:
        chain = ChatPromptTemplate.from_template("Of {topic}.") | FakeListChatModel(responses=["Bears roar."])
        with capture_traces() as traces:
            chain.invoke({"topic": "bears"}, {"callbacks": [traces.tracer]})
        (trace,) = traces
        prompt, model = trace.root.children
        assert trace.spans == (trace.root, prompt, model)
        assert [span.parent_id for span in trace.spans] == [None, trace.root.id, trace.root.id]
        assert (model.name, model.type) == ("FakeListChatModel", "CHAT_MODEL")
        assert model.inputs == {"messages": [{"role": "user", "content": "Of bears."}]}
        assert trace.span("FakeListChatModel") is model

    def test_a_search_for_a_span_that_is_missing_lists_the_spans(self) -> None:
        with capture_traces() as traces:
            SHOUT.invoke("hello", {"callbacks": [traces.tracer]})
        with pytest.raises(
            LookupError, match="0 spans have the name 'whisper'; the trace has the spans: shout"
        ):
            traces[0].span("whisper")

    def test_a_failed_run_has_its_exception_as_an_event(self) -> None:
        with capture_traces() as traces, pytest.raises(ValueError, match="bears"):
            (SHOUT | fails).invoke("hello", {"callbacks": [traces.tracer]})
        (trace,) = traces
        failed = trace.span("fails")
        assert (trace.status, trace.outcome, failed.outcome) == ("ERROR", "error", "error")
        assert "no bears today" in failed.status_message
        (event,) = failed.events
        assert (event.name, event.attributes["exception.type"]) == ("exception", "ValueError")

    def test_a_run_that_is_open_at_the_end_is_captured_as_cut_off(self) -> None:
        with capture_traces() as traces:
            stream = SHOUT.stream("hello", {"callbacks": [traces.tracer]})
            next(stream)
        assert [trace.outcome for trace in traces] == ["cut_off"]

    def test_secrets_are_masked_and_the_own_function_is_called(self) -> None:
        with capture_traces(redact=lambda text: text.replace("hello", "[greeting]")) as traces:
            RunnableLambda(str).invoke(f"hello {SECRET}", {"callbacks": [traces.tracer]})
        (trace,) = traces
        assert trace.root.inputs == "[greeting] [REDACTED]"

    def test_no_content_is_captured_where_the_tracer_records_none(self) -> None:
        with capture_traces(capture="metadata") as traces:
            SHOUT.invoke("hello", {"callbacks": [traces.tracer]})
        assert (traces[0].root.inputs, traces[0].root.outputs) == (None, None)

    def test_a_trace_has_the_values_that_mlflow_shows(
        self, model: AzureChatOpenAI, make_tracer: MakeTracer, store_uri: str
    ) -> None:
        chain = ChatPromptTemplate.from_template("Tell me about {topic}.") | model
        config: RunnableConfig = {"metadata": {"session_id": "s-17"}, "tags": ["beta"]}
        tracer = make_tracer(store_uri)
        chain.invoke({"topic": "bears"}, {**config, "callbacks": [tracer]})
        stored = stored_trace(store_uri, tracer)
        with capture_traces() as traces:
            chain.invoke({"topic": "bears"}, {**config, "callbacks": [traces.tracer]})
        (trace,) = traces
        assert (trace.name, trace.status) == (root(stored).name, stored.info.state.value)
        assert trace.session_id == stored.info.trace_metadata["mlflow.trace.session"]
        assert trace.tags.items() <= stored.info.tags.items()
        of_mlflow = {span.name: span for span in stored.data.spans}
        assert [span.name for span in trace.spans] == list(of_mlflow)
        for span in trace.spans:
            other = of_mlflow[span.name]
            assert (span.type, span.status_message) == (other.span_type, other.status.description or "")
            # Two answers differ in their ids and times only.
            assert re.sub(r"[\d.]+", "", str(span.inputs)) == re.sub(r"[\d.]+", "", str(other.inputs))
            assert span.attributes.keys() <= other.attributes.keys()
        assert (
            trace.span("AzureChatOpenAI").attributes["mlflow.chat.tokenUsage"]
            == (of_mlflow["AzureChatOpenAI"].attributes["mlflow.chat.tokenUsage"])
        )

    def test_spans_of_mlflow_inside_a_chain_are_captured(self, own_mlflow: None) -> None:
        @mlflow.trace
        def look_up(topic: str) -> str:
            return f"a page about {topic}"

        with capture_traces() as traces:
            RunnableLambda(look_up, name="search").invoke("owls", {"callbacks": [traces.tracer]})
        (trace,) = traces
        (child,) = trace.root.children
        assert (child.name, child.inputs, child.outputs) == (
            "look_up",
            {"topic": "owls"},
            "a page about owls",
        )

    def test_chains_of_many_threads_are_captured_complete(self) -> None:
        with capture_traces(install=True) as traces:
            threads = [threading.Thread(target=SHOUT.invoke, args=(str(number),)) for number in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert {trace.root.inputs for trace in traces} == set(map(str, range(20)))


class TestTheBlock:
    def test_an_installed_capture_has_every_chain_and_is_taken_back(self, make_tracer: MakeTracer) -> None:
        before = install(make_tracer("http://127.0.0.1:9", forwarder="none"))
        with capture_traces(install=True) as traces:
            SHOUT.invoke("inside")
        SHOUT.invoke("outside")
        assert [trace.root.inputs for trace in traces] == ["inside"]
        assert before.stats()["recorded"] == 1
        assert uninstall() is before

    def test_an_installed_capture_is_taken_back_after_an_exception(self) -> None:
        with pytest.raises(ValueError, match="bears"), capture_traces(install=True) as traces:
            (SHOUT | fails).invoke("hello")
        assert len(traces) == 1
        assert uninstall() is None

    def test_nothing_is_captured_after_the_block(self) -> None:
        with capture_traces() as traces:
            pass
        SHOUT.invoke("late", {"callbacks": [traces.tracer]})
        assert list(traces) == []

    def test_the_environment_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LANGCHAIN_MLFLOW_TRACER_DISABLED", "true")
        monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
        with capture_traces() as traces:
            SHOUT.invoke("hello", {"callbacks": [traces.tracer]})
        assert len(traces) == 1

    def test_a_wrong_argument_raises(self) -> None:
        with pytest.raises(ConfigurationError, match="sample_rate"), capture_traces(sample_rate=2):
            pass

    def test_nothing_is_captured_at_a_sample_rate_of_zero(self) -> None:
        with capture_traces(sample_rate=0) as traces:
            SHOUT.invoke("hello", {"callbacks": [traces.tracer]})
        assert list(traces) == []

    def test_the_tracer_counts_and_flushes_as_others_do(self) -> None:
        with capture_traces() as traces:
            SHOUT.invoke("hello", {"callbacks": [traces.tracer]})
            assert traces.tracer.flush() is True
            assert traces.tracer.stats()["recorded"] == 1
        assert traces.tracer.close() is True

    def test_a_copy_captures_and_a_pickled_tracer_is_off(self) -> None:
        with capture_traces() as traces:
            SHOUT.invoke("hello", {"callbacks": [copy.deepcopy(traces.tracer)]})
            unpickled = pickle.loads(pickle.dumps(traces.tracer))  # noqa: S301 - our own
            SHOUT.invoke("hello", {"callbacks": [unpickled]})
        assert type(unpickled) is MlflowTracer
        assert len(traces) == 1


def test_a_capture_needs_no_disk_thread_mlflow_or_pytest(tmp_path: Path) -> None:
    script = """
import os, sys, threading
from langchain_core.runnables import RunnableLambda
from langchain_mlflow_tracer.testing import capture_traces
with capture_traces() as traces:
    RunnableLambda(str).invoke(1, {"callbacks": [traces.tracer]})
assert len(traces) == 1
assert threading.active_count() == 1, threading.enumerate()
print(sorted({"mlflow", "sqlite3", "pytest"} & set(sys.modules)), os.listdir())
"""
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, **home},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.stdout == "[] []\n", ran.stderr


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "test_page.py").write_text("\n".join(blocks), "utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert f"{len(re.findall('^def test_', ''.join(blocks), re.MULTILINE))} passed" in ran.stdout
