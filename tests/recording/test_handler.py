"""Calls the hooks in ways that LangChain should not, and the tracer in the ways that people do."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import dispatch_custom_event
from langchain_core.callbacks.manager import CallbackManager
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import langchain_mlflow_tracer
from langchain_mlflow_tracer import MlflowTracer, http_clients, install, uninstall
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import Outcome
from langchain_mlflow_tracer.recording import failure
from langchain_mlflow_tracer.recording.handler import Handler
from langchain_mlflow_tracer.recording.models.model_call import current_calls
from langchain_mlflow_tracer.settings.settings import load
from langchain_mlflow_tracer.spool.spool import Spool
from langchain_mlflow_tracer.tracer import current_destination
from langchain_mlflow_tracer.tracer.install import install_lazily
from langchain_mlflow_tracer.tracer.pipeline import Pipeline
from tests.conftest import MakeTracer, wait_for
from tests.encoding.test_otlp import attributes, spans
from tests.support.fakes import FakeClock

ROOT = Path(__file__).resolve().parents[2]

HOOKS = [name for name in dir(MlflowTracer) if name.startswith("on_") and name in vars(Handler)]


@pytest.fixture
def tracer(make_tracer: MakeTracer) -> MlflowTracer:
    """Return a tracer whose traces stay in the spool."""
    return make_tracer("http://127.0.0.1:9", forwarder="none", durability="sync")


@pytest.fixture
def spooled(tmp_path: Path) -> Iterator[Any]:
    """Return a function that reads the traces in the spool, the spans of each."""
    spool = Spool(tmp_path / "spool", max_bytes=2**40)

    def read() -> list[list[Span]]:
        return [spans(lease.payload) for d in spool.destinations() for lease in spool.lease(d, 1_000, 2**40)]

    yield read
    spool.close()


class TestInvalidHookCalls:
    @pytest.mark.parametrize("hook", HOOKS)
    def test_no_hook_of_the_handler_raises_for_invalid_arguments(
        self, hook: str, tracer: MlflowTracer
    ) -> None:
        call = getattr(tracer, hook)
        if hook in {"on_interrupt", "on_resume"}:
            call(object())
            return
        for junk in (None, object(), [object()], {"a": object()}):
            for run_id in (uuid.uuid4(), "no id", None):
                arguments = [junk] * (2 if hook.endswith("_start") or hook == "on_custom_event" else 1)
                call(*arguments, run_id=run_id, parent_run_id=None)

    @pytest.mark.parametrize("junk", [None, object(), [object()], {"a": object()}])
    @pytest.mark.parametrize("run_id", [uuid.uuid4(), "no id", None])
    def test_embedding_spans_never_raise_for_invalid_arguments(
        self, junk: Any, run_id: Any, tracer: MlflowTracer
    ) -> None:
        tracer.embedding_spans.start(junk, run_id, junk, None)
        tracer.embedding_spans.end(junk, junk, run_id)
        tracer.embedding_spans.fail(junk, junk, run_id)

    def test_a_failing_hook_is_counted_every_time_and_logged_once(
        self, tracer: MlflowTracer, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(3):
            tracer.on_llm_end(None, run_id=None)  # type: ignore[arg-type]
        assert tracer.stats()["problems"]["hook_failed"] == 3
        (record,) = caplog.records
        assert record.message.startswith("on_llm_end could not record a run: AttributeError at ")
        assert "handler.py:" in record.message

    def test_the_handler_counts_hooks_that_arrive_out_of_order(
        self, tracer: MlflowTracer, spooled: Any
    ) -> None:
        run_id = uuid.uuid4()
        tracer.on_chain_end("early", run_id=run_id)
        tracer.on_chain_start(None, 1, run_id=run_id, name="once")
        tracer.on_chain_start(None, 1, run_id=run_id, name="twice")
        tracer.on_chain_end(2, run_id=run_id)
        tracer.on_chain_error(ValueError("late"), run_id=run_id)
        assert tracer.stats()["problems"]["unknown_run"] == 2
        assert tracer.stats()["problems"]["started_twice"] == 1
        assert [span.name for (span,) in spooled()] == ["once"]

    def test_a_handler_that_is_passed_twice_records_a_run_once(
        self, tracer: MlflowTracer, spooled: Any
    ) -> None:
        model = FakeListChatModel(responses=["a"], callbacks=[tracer])
        model.invoke("?", {"callbacks": [tracer]})
        assert [len(trace) for trace in spooled()] == [1]


def test_the_context_variable_keeps_no_text_of_a_stream_that_has_ended(tracer: MlflowTracer) -> None:
    http_clients()  # from now on somebody may ask whose request is sent
    assert list(FakeListChatModel(responses=["many words"]).stream("?", {"callbacks": [tracer]}))
    assert [one._tokens for one in current_calls.get()] == [[]]


class TestRecordedContent:
    def test_a_tracer_that_captures_only_metadata_records_no_content(
        self, make_tracer: MakeTracer, spooled: Any
    ) -> None:
        tracer = make_tracer("http://127.0.0.1:9", forwarder="none", durability="sync", capture="metadata")

        @tool
        def look(word: str) -> str:
            """Look a word up."""
            dispatch_custom_event("looked", {"word": word})
            raise ValueError(word)

        chain = (
            FakeListChatModel(responses=["a private answer"])
            | RunnableLambda(lambda m: {"word": m.content})
            | look
        )
        with pytest.raises(ValueError, match="private"):
            chain.invoke("a private question", {"callbacks": [tracer]})
        (trace,) = spooled()
        assert b"private" not in b"".join(span.SerializeToString() for span in trace)
        assert [span.name for span in trace] == [
            "RunnableSequence",
            "FakeListChatModel",
            "RunnableLambda",
            "look",
        ]
        (looked, raised) = trace[-1].events
        assert (looked.name, attributes(looked)) == ("looked", {})
        assert attributes(raised)["exception.type"] == "ValueError"

    def test_the_tracer_records_no_headers_and_no_endpoint_of_a_model_client(
        self, tracer: MlflowTracer, spooled: Any
    ) -> None:
        serialized = {
            "name": "M",
            "kwargs": {"default_headers": {"x": "header-value"}, "endpoint": "the-host"},
        }
        run_id = uuid.uuid4()
        tracer.on_chat_model_start(
            serialized, [[]], run_id=run_id, invocation_params={"azure_endpoint": "the-host"}
        )
        tracer.on_llm_error(ValueError("no"), run_id=run_id)
        (trace,) = spooled()
        content = trace[0].SerializeToString()
        assert b"header-value" not in content
        assert b"the-host" not in content

    def test_retries_and_tool_messages_are_recorded(self, tracer: MlflowTracer, spooled: Any) -> None:
        class RetryState:
            attempt_number = 2

        run_id = uuid.uuid4()
        tracer.on_tool_start({"name": "t"}, "text", run_id=run_id)
        tracer.on_retry(RetryState(), run_id=run_id)
        tracer.on_tool_end(ToolMessage("out", tool_call_id="c1"), run_id=run_id)
        ((span,),) = spooled()
        found = attributes(span)
        assert (found["mlflow.spanInputs"], found["mlflow.spanOutputs"]) == ("text", "out")
        assert found["gen_ai.tool.call.id"] == "c1"
        assert attributes(span.events[0]) == {"attempt": 2}

    def test_the_tracer_keeps_the_partial_answer_of_a_failed_model_call(
        self, tracer: MlflowTracer, spooled: Any
    ) -> None:
        class Cut(FakeListChatModel):
            error_on_chunk_number: int | None = 3

        with pytest.raises(Exception, match=".*"):
            list(Cut(responses=["abcdef"]).stream("?", {"callbacks": [tracer]}))
        ((span,),) = spooled()
        assert "abc" in attributes(span)["mlflow.spanOutputs"]

    def test_a_chain_that_fails_during_a_stream_keeps_its_inputs(
        self, tracer: MlflowTracer, spooled: Any
    ) -> None:
        def broken(chunks: Iterator[Any]) -> Iterator[Any]:
            yield next(chunks)
            raise ValueError("halfway")

        from langchain_core.runnables import RunnableGenerator  # noqa: PLC0415

        with pytest.raises(ValueError, match="halfway"):
            list(RunnableGenerator(broken).stream({"q": 1}, {"callbacks": [tracer]}))
        ((span,),) = spooled()
        assert attributes(span)["mlflow.spanInputs"] == '{"q":1}'

    def test_every_trace_has_the_fields_of_its_tracer_unless_the_call_overrides_them(
        self, make_tracer: MakeTracer, spooled: Any
    ) -> None:
        tracer = make_tracer(
            "http://127.0.0.1:9", forwarder="none", durability="sync",
            session_id="s", user_id="u", tags={"a": "1"}, metadata={"m": "1"},
        )  # fmt: skip
        chain: Runnable[int, int] = RunnableLambda(lambda value: value)
        chain.invoke(1, {"callbacks": [tracer]})
        chain.invoke(
            1, {"callbacks": [tracer], "tags": ["b"], "metadata": {"user_id": "v", "conversation_id": "t"}}
        )
        one, two = (attributes(trace[0]) for trace in spooled())
        assert (one["session.id"], one["user.id"], one["metadata.m"]) == ("s", "u", "1")
        assert (two["session.id"], two["user.id"], two["mlflow.traceTag.b"]) == ("t", "v", "true")
        assert one["mlflow.traceTag.a"] == two["mlflow.traceTag.a"] == "1"

    def test_the_sample_rate_selects_whole_traces(self, make_tracer: MakeTracer, spooled: Any) -> None:
        tracer = make_tracer("http://127.0.0.1:9", forwarder="none", durability="sync", sample_rate=0.5)
        chain = RunnableLambda(lambda value: value) | RunnableLambda(lambda value: value)
        for number in range(100):
            chain.invoke(number, {"callbacks": [tracer]})
        traces = spooled()
        assert 20 < len(traces) < 80
        assert {len(trace) for trace in traces} == {3}


class TestPublicApi:
    def test_last_trace_id_belongs_to_the_current_thread_or_task(self, tracer: MlflowTracer) -> None:
        chain: Runnable[int, int] = RunnableLambda(lambda value: value)
        assert tracer.last_trace_id is None
        chain.invoke(1, {"callbacks": [tracer]})
        mine = tracer.last_trace_id

        def in_thread() -> str | None:
            chain.invoke(2, {"callbacks": [tracer]})
            return tracer.last_trace_id

        async def in_task() -> str | None:
            await chain.ainvoke(3, {"callbacks": [tracer]})
            return tracer.last_trace_id

        async def tasks() -> list[str | None]:
            return list(await asyncio.gather(in_task(), in_task()))

        with ThreadPoolExecutor(1) as pool:
            theirs = [pool.submit(in_thread).result(), *asyncio.run(tasks())]
        assert len({mine, *theirs}) == 4
        assert tracer.last_trace_id == mine

    def test_a_disabled_tracer_records_nothing_and_creates_no_thread_and_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LANGCHAIN_MLFLOW_TRACER_DISABLED", "true")
        before = threading.active_count()
        tracer = MlflowTracer(spool_dir=tmp_path / "never")
        RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
        assert tracer.last_trace_id is None
        assert tracer.stats()["recorded"] == 0
        assert (tracer.flush(), tracer.close()) == (True, True)
        assert threading.active_count() == before
        assert not (tmp_path / "never").exists()

    def test_a_failing_spool_is_logged_and_does_not_break_the_chain(
        self, tracer: MlflowTracer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        pipeline = tracer._pipeline
        assert isinstance(pipeline, Pipeline)
        wait_for(lambda: pipeline._sending.spool)
        pipeline._open_spool().close()
        assert RunnableLambda(str).invoke(1, {"callbacks": [tracer]}) == "1"
        assert tracer.flush(timeout=0.1) is False
        assert "is closed" in caplog.text
        assert tracer.stats()["problems"]["spool_failed"] >= 1

    def test_a_damaged_spool_is_put_aside_and_logged(
        self, make_tracer: MakeTracer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "spool").mkdir()
        (tmp_path / "spool" / "spool.db").write_bytes(b"something else " * 1_000)
        tracer = make_tracer("http://127.0.0.1:9", forwarder="none")
        assert RunnableLambda(str).invoke(1, {"callbacks": [tracer]}) == "1"
        wait_for(lambda: tracer.stats()["waiting"] == 1)
        assert "was damaged and put aside as spool.db.damaged" in caplog.text
        assert tracer.stats()["problems"]["spool_damaged"] == 1

    def test_the_package_exports_exactly_its_public_names(self) -> None:
        assert set(langchain_mlflow_tracer.__all__) == {
            "ConfigurationError", "ExportError", "MlflowTracer", "PermanentExportError", "SpoolError",
            "Stats", "TracerError", "TransientExportError", "__version__", "http_clients", "install",
            "join_trace", "protect_mlflow_tracing", "uninstall", "unprotect_mlflow_tracing", "whole_messages",
        }  # fmt: skip

    def test_importing_the_package_imports_neither_mlflow_sqlite3_nor_click(self) -> None:
        code = (
            "import sys, langchain_mlflow_tracer as package; tracer = package.MlflowTracer\n"
            "dear = {'mlflow', 'sqlite3', 'click', 'tenacity', 'opentelemetry.proto', 'openai'}\n"
            "print(sorted(dear & set(sys.modules)))"
        )
        output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
        assert output.strip() == "[]"


class TestInstalledTracer:
    def test_install_traces_threads_that_started_before_and_uninstall_stops_the_tracing(
        self, tracer: MlflowTracer, spooled: Any
    ) -> None:
        chain: Runnable[int, int] = RunnableLambda(lambda value: value)
        ready, go = threading.Event(), threading.Event()

        def invoke_later() -> None:
            ready.set()
            go.wait(10)
            chain.invoke(1)

        thread = threading.Thread(target=invoke_later)
        thread.start()
        ready.wait(10)
        assert install(tracer) is tracer
        go.set()
        thread.join()
        assert uninstall() is tracer
        chain.invoke(2)
        assert len(spooled()) == 1
        assert uninstall() is None

    def test_the_installed_tracer_does_not_record_a_chain_with_its_own_tracer(
        self, tracer: MlflowTracer, make_tracer: MakeTracer
    ) -> None:
        own = make_tracer("http://127.0.0.1:9", forwarder="none")
        install(tracer)
        RunnableLambda(str).invoke(1, {"callbacks": [own]})
        assert (own.last_trace_id is None, tracer.last_trace_id) == (False, None)

    def test_install_lazily_creates_the_tracer_when_the_first_chain_starts(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("LANGCHAIN_MLFLOW_TRACER_FORWARDER", "none")
        install_lazily()
        assert isinstance(CallbackManager.configure().handlers[0], MlflowTracer)
        installed = uninstall()
        assert installed is not None
        installed.close()

    def test_one_environment_variable_and_one_import_trace_every_chain(self, tmp_path: Path) -> None:
        code = (
            "import langchain_mlflow_tracer\n"
            "from langchain_core.runnables import RunnableLambda\n"
            "RunnableLambda(str).invoke(1)"
        )
        environ = {
            **os.environ, "LANGCHAIN_MLFLOW_TRACER": "true", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
            "LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR": str(tmp_path / "spool"),
            "LANGCHAIN_MLFLOW_TRACER_FORWARDER": "none", "LANGCHAIN_MLFLOW_TRACER_EXIT_TIMEOUT": "0",
        }  # fmt: skip
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=True)
        spool = Spool(tmp_path / "spool", max_bytes=2**40)
        assert spool.figures.totals().waiting == 1
        spool.close()


class TestDestinationFromMlflow:
    @pytest.fixture(autouse=True)
    def restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put back what these tests tell MLflow."""
        from mlflow.tracking import fluent  # noqa: PLC0415
        from mlflow.tracking._tracking_service import utils  # noqa: PLC0415

        monkeypatch.setattr(utils, "_tracking_uri", None)
        monkeypatch.setattr(fluent, "_active_experiment_id", None)

    def test_a_trace_goes_to_the_tracking_uri_and_experiment_that_mlflow_has_when_its_root_starts(
        self, store_uri: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch, spooled: Any
    ) -> None:
        import mlflow  # noqa: PLC0415

        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        tracer = make_tracer(forwarder="none", durability="sync")
        assert current_destination.current_destination(tracer._settings).tracking_uri == "http://127.0.0.1:9"
        mlflow.set_tracking_uri(store_uri)
        mlflow.set_experiment("told")
        RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
        found = current_destination.current_destination(tracer._settings)
        assert (found.tracking_uri, found.experiment_id) == (store_uri, "1")
        assert tracer._destination() == found.to_text()

    def test_arguments_of_the_tracer_override_the_destination_of_mlflow(self, store_uri: str) -> None:
        import mlflow  # noqa: PLC0415

        mlflow.set_tracking_uri(store_uri)
        settings = load({"tracking_uri": "http://h", "experiment": "e", "disabled": True}, {})
        assert current_destination.current_destination(settings) == settings.destination

    def test_an_unsupported_tracking_uri_raises_at_construction_and_is_only_logged_afterwards(
        self, make_tracer: MakeTracer, caplog: pytest.LogCaptureFixture
    ) -> None:
        import mlflow  # noqa: PLC0415

        tracer = make_tracer(forwarder="none")
        mlflow.set_tracking_uri("databricks")
        assert tracer._destination() == tracer._own_destination
        assert "mlflow.set_tracking_uri='databricks' is not valid" in caplog.text
        with pytest.raises(langchain_mlflow_tracer.ConfigurationError):
            make_tracer()

    def test_the_destination_stays_unchanged_if_mlflow_is_not_imported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "mlflow")
        settings = load({"disabled": True}, {})
        assert current_destination.current_destination(settings) is settings.destination


class TestFailedRuns:
    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (ValueError("x"), Outcome.ERROR),
            (asyncio.CancelledError(), Outcome.CANCELLED),
            (KeyboardInterrupt(), Outcome.CANCELLED),
            (GeneratorExit(), Outcome.ABANDONED),
        ],
    )
    def test_a_failed_run_gets_its_outcome_from_its_exception(
        self, error: BaseException, outcome: Outcome
    ) -> None:
        assert failure.failure(error, with_text=True).outcome is outcome

    def test_a_graph_that_waits_for_a_person_gets_the_outcome_interrupted(self) -> None:
        from langgraph.errors import GraphInterrupt  # noqa: PLC0415

        told = failure.failure(GraphInterrupt(()), with_text=True)
        assert (told.outcome, told.event, told.message) == (Outcome.INTERRUPTED, None, "")

    def test_an_exception_whose_str_raises_is_recorded_with_its_type(self) -> None:
        class Mute(Exception):  # noqa: N818 - a name for a test
            def __str__(self) -> str:
                raise RuntimeError

        told = failure.failure(Mute(), with_text=True)
        assert told.event is not None
        assert told.message.startswith("TestFailedRuns.")
        assert "Mute" in str(told.event()["exception.type"])


class TestLog:
    def test_the_log_writes_one_line_a_minute_for_each_cause_with_the_count(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = FakeClock()
        log = Log(logging.getLogger("langchain_mlflow_tracer"), clock)
        for _ in range(3):
            log.report("one", "it %s", "broke")
            log.report("two", "so did this")
        clock.advance(60)
        log.report("one", "it %s", "broke")
        assert [record.getMessage() for record in caplog.records] == [
            "it broke", "so did this", "it broke (3 since the last such line)",
        ]  # fmt: skip
        log.count("quiet", 5)
        assert log.counts() == {"one": 4, "two": 3, "quiet": 5}
        log.forget()
        assert log.counts() == {}
