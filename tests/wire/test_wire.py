"""Looks at models through HTTP clients that see the wire: what is bound to whom, and what may go wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import threading
import tracemalloc
import uuid
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import AzureChatOpenAI
from mlflow.entities import Span

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, http_clients
from langchain_mlflow_tracer.recording.models import model_call
from langchain_mlflow_tracer.recording.models.content_filters import Verdicts
from langchain_mlflow_tracer.wire import client, exchange, sse
from langchain_mlflow_tracer.wire.sse import Events
from tests.conftest import MakeTracer
from tests.support.faults import answering
from tests.support.stored import attribute, named, root, stored_trace, stored_traces

COMPLETION_FILTERS = (
    "hate", "self_harm", "sexual", "violence", "protected_material_code", "protected_material_text",
)  # fmt: skip
SAFE = {"filtered": False, "severity": "safe"}
TRIPPED = {"filtered": True, "severity": "medium"}

BROKEN = (openai.OpenAIError, httpx.HTTPError)
"""What comes of a stream that breaks: the SDK's own exceptions since openai 3, before that httpx's."""

Told = dict[str, Any]


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """Return a tracer that delivers into a real MLflow store."""
    return make_tracer(store_uri)


@pytest.fixture
def config(tracer: MlflowTracer) -> Any:
    """Return the config by which a model is traced."""
    return {"callbacks": [tracer]}


@pytest.fixture
def seen(emulator: AzureEmulator) -> AzureChatOpenAI:
    """Return a model on the wire."""
    return model(emulator)


def model(emulator: AzureEmulator, **more: Any) -> AzureChatOpenAI:
    settings: dict[str, Any] = {**emulator.chat(), "stream_usage": True, **http_clients(), **more}
    return AzureChatOpenAI(**settings)


def model_at(address: str, **more: Any) -> AzureChatOpenAI:
    """Return a model on the wire of a server that is not the emulator."""
    settings: dict[str, Any] = {
        "azure_endpoint": address, "api_key": "k", "api_version": "2024-10-21", "azure_deployment": "d",
        "max_retries": 0, **http_clients(), **more,
    }  # fmt: skip
    return AzureChatOpenAI(**settings)


def chunk(text: str | None = None, reason: str | None = None, **verdicts: Told) -> Told:
    """Make a chunk of a chat completion, with the filters' verdicts if there are any."""
    choice: Told = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": reason}
    if verdicts:
        choice["content_filter_results"] = verdicts
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def prompt_verdicts(**verdicts: Told) -> Told:
    told = [{"prompt_index": 0, "content_filter_results": verdicts}]
    return {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": told}


def event_stream(*events: Told, end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(event)}\n\n" for event in events) + end).encode()


STREAM = event_stream(
    prompt_verdicts(jailbreak={"filtered": False, "detected": False}),
    chunk("one "),
    chunk("two", hate=SAFE, violence=SAFE),
    chunk(reason="content_filter", violence=TRIPPED),
)


@contextmanager
def serving(body: bytes = STREAM, **headers: str) -> Iterator[str]:
    """Serve one stream of events to whoever asks."""
    named = {"Content-Type": "text/event-stream", **{key.replace("_", "-"): headers[key] for key in headers}}
    with answering(200, body, named) as address:
        yield address


def named_run(config: Any, name: str) -> Any:
    return {**config, "run_name": name}


def tripped(span: Span) -> object:
    return attribute(span, "azure.content_filter.tripped")


class TestTheClients:
    def test_http_clients_have_the_settings_of_the_sdks_own_clients(self) -> None:
        made, own = http_clients(), openai.DefaultHttpxClient()
        assert set(made) == {"http_client", "http_async_client"}
        assert isinstance(made["http_client"], openai.DefaultHttpxClient)
        assert isinstance(made["http_async_client"], openai.DefaultAsyncHttpxClient)
        for one in made.values():
            assert (one.timeout, one.follow_redirects, one.trust_env) == (
                own.timeout, own.follow_redirects, True,
            )  # fmt: skip

    def test_http_clients_use_the_proxies_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        with pytest.raises(openai.APIConnectionError):
            model_at("https://azure.invalid").invoke("hi")
        # Without the proxy the name would be looked up: the connection to the proxy is what is refused.
        with pytest.raises(Exception, match="refused"):
            http_clients()["http_client"].get("https://azure.invalid")

    def test_options_of_http_clients_reach_both_clients(self) -> None:
        made = http_clients(timeout=3.0, verify=False)
        assert made["http_client"].timeout == openai.Timeout(3.0)
        assert made["http_async_client"].timeout == openai.Timeout(3.0)

    def test_http_clients_without_openai_name_the_package_to_install(self) -> None:
        code = (
            "import sys; sys.modules['openai'] = None\n"
            "from langchain_mlflow_tracer import ConfigurationError, http_clients\n"
            "try: http_clients()\n"
            "except ConfigurationError as error: print(error)"
        )
        said = subprocess.check_output([sys.executable, "-c", code], text=True)
        assert "install langchain-mlflow-tracer[azure]" in said

    def test_requests_are_not_read_when_no_tracer_records_them(
        self, seen: AzureChatOpenAI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found: list[object] = []
        find = exchange.find
        monkeypatch.setattr(exchange, "find", lambda request: found.append(find(request)))
        assert seen.invoke("hi").text == "You said: hi"
        assert found == [None]

    async def test_answers_are_the_same_with_and_without_http_clients(
        self, emulator: AzureEmulator, seen: AzureChatOpenAI, config: Any
    ) -> None:
        plain = AzureChatOpenAI(**emulator.chat())
        question = "What is the capital of Peru?"
        told = [one.text for one in plain.stream(question)]
        assert [one.text for one in seen.stream(question, config)] == told
        assert [one.text async for one in seen.astream(question, config)] == told
        assert seen.invoke(question, config).text == plain.invoke(question).text
        assert (await seen.ainvoke(question, config)).text == plain.invoke(question).text

    def test_a_read_response_still_has_its_elapsed_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "find", lambda _: _Deaf())
        with serving() as address, http_clients()["http_client"].stream("GET", address) as response:
            response.read()
            assert type(response.stream) is client._Stream
            assert response.elapsed.total_seconds() > 0


class _Deaf:
    """Records every request, and reads nothing."""

    logs = ()

    def start(self, request: Any) -> _Deaf:
        return self

    def fail(self, error: BaseException) -> None: ...

    def answer(self, response: Any, *, is_read: bool) -> _Deaf | None:
        return None if is_read else self

    def read(self, chunk: bytes) -> None: ...


class TestWhoseRequestItIs:
    def test_two_interleaved_streams_keep_their_own_verdicts(
        self, seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        streams = [
            seen.stream(f"a b c d e f [[filter:completion {name}]]", named_run(config, name))
            for name in ("hate", "violence")
        ]
        while streams:
            streams = [stream for stream in streams if next(stream, None) is not None]
        traces = stored_traces(store_uri, tracer)
        assert [(root(trace).name, tripped(root(trace))) for trace in traces] == [
            ("hate", "hate"),
            ("violence", "violence"),
        ]

    def test_twenty_streams_in_threads_keep_their_own_verdicts(
        self, seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        asked = [(index, COMPLETION_FILTERS[index % len(COMPLETION_FILTERS)]) for index in range(20)]
        barrier = threading.Barrier(20)

        def ask(one: tuple[int, str]) -> None:
            index, name = one
            barrier.wait(30)
            text = f"one two three four five [[pace 0.01]] [[filter:completion {name}]]"
            list(seen.stream(text, named_run(config, f"{index} {name}")))

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(ask, asked))
        found = {root(trace).name: tripped(root(trace)) for trace in stored_traces(store_uri, tracer)}
        assert found == {f"{index} {name}": name for index, name in asked}

    async def test_twenty_streams_in_one_event_loop_keep_their_own_verdicts(
        self, seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        asked = [(index, COMPLETION_FILTERS[index % len(COMPLETION_FILTERS)]) for index in range(20)]

        async def ask(index: int, name: str) -> None:
            text = f"one two three four five [[pace 0.01]] [[filter:completion {name}]]"
            async for _ in seen.astream(text, named_run(config, f"{index} {name}")):
                pass

        await asyncio.gather(*(ask(*one) for one in asked))
        found = {root(trace).name: tripped(root(trace)) for trace in stored_traces(store_uri, tracer)}
        assert found == {f"{index} {name}": name for index, name in asked}

    def test_a_request_that_an_application_sends_itself_belongs_to_no_call(
        self, seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        stream = seen.stream("one two three", config)
        next(stream)
        raw = seen.root_client.chat.completions.create(
            model="gpt-4o-prod",
            messages=[{"role": "user", "content": "one two three four [[filter:completion hate]]"}],
        )
        assert raw.choices[0].finish_reason == "content_filter"
        list(stream)
        span = root(stored_trace(store_uri, tracer))
        assert tripped(span) is None
        assert span.outputs["choices"][0]["finish_reason"] == "stop"

    def test_a_request_after_the_run_belongs_to_no_call(
        self, seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        seen.invoke("hi", config)
        with pytest.raises(ValueError, match="content filter"):
            seen.invoke("one two three four [[filter:completion]]")
        assert tripped(root(stored_trace(store_uri, tracer))) is None

    def test_requests_of_prompts_generated_together_belong_to_no_call(
        self, seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        seen.generate([[HumanMessage("one [[429 x1]]")], [HumanMessage("two")]], callbacks=[tracer])
        for trace in stored_traces(store_uri, tracer):
            assert attribute(root(trace), "azure.region") is None
            assert root(trace).events == []

    def test_nested_model_calls_keep_their_own_verdicts(
        self,
        emulator: AzureEmulator,
        seen: AzureChatOpenAI,
        config: Any,
        tracer: MlflowTracer,
        store_uri: str,
    ) -> None:
        class Outer(AzureChatOpenAI):
            def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
                list(seen.stream("a b c d [[filter:completion hate]]", named_run(config, "inner")))
                return super()._generate(messages, *args, **kwargs)

        Outer(**emulator.chat(), **http_clients()).invoke("hi [[429 x1]]", named_run(config, "outer"))
        found = {root(trace).name: root(trace) for trace in stored_traces(store_uri, tracer)}
        assert (tripped(found["inner"]), tripped(found["outer"])) == ("hate", None)
        assert [event.name for event in found["outer"].events] == ["retry"]
        assert found["inner"].events == []

    def test_every_tracer_of_a_run_records_its_request(
        self, seen: AzureChatOpenAI, tracer: MlflowTracer, make_tracer: MakeTracer, store_uri: str
    ) -> None:
        other = make_tracer(store_uri, "other")
        list(seen.stream("a b c d [[filter:completion hate]]", {"callbacks": [tracer, other]}))
        for one in (tracer, other):
            span = root(stored_trace(store_uri, one))
            assert tripped(span) == "hate"
            assert span.outputs["choices"][0]["content_filter_results"]["hate"] == TRIPPED

    def test_abandoned_calls_in_a_context_are_bounded(self, tracer: MlflowTracer) -> None:
        held = [uuid.uuid4() for _ in range(100)]
        for run_id in held:
            tracer.on_chat_model_start(None, [[]], run_id=run_id)
        assert len(model_call.current_calls.get()) <= model_call.MAX_OTHERS + 1


class TestWhatMayGoWrong:
    """The application gets what it would have got, and the trace what is known."""

    def test_a_stream_that_is_cut_keeps_what_came_before(
        self, emulator: AzureEmulator, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        def cut(client: AzureChatOpenAI) -> tuple[list[str], str]:
            received: list[str] = []
            with pytest.raises(BROKEN) as raised:
                received.extend(one.text for one in client.stream("Hello there you [[break 3]]", config))
            return received, type(raised.value).__name__

        assert cut(model(emulator)) == cut(AzureChatOpenAI(**emulator.chat()))
        first, _ = stored_traces(store_uri, tracer)
        (choice,) = root(first).outputs["choices"]
        assert choice["content_filter_results"]["hate"] == SAFE
        assert attribute(root(first), "azure.region") == "Sweden Central"

    def test_a_hanging_server_is_a_timeout_with_an_event_for_each_retry(
        self, emulator: AzureEmulator, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        with pytest.raises(openai.APITimeoutError):
            model(emulator, timeout=0.2, max_retries=1).invoke("Hello [[hang]]", config)
        span = root(stored_trace(store_uri, tracer))
        retry = span.events[0]
        assert (retry.name, retry.attributes["attempt"]) == ("retry", 2)
        assert str(retry.attributes["error.type"]).endswith(".ReadTimeout")
        assert 0 < float(str(retry.attributes["waited_seconds"])) < 5
        assert str(attribute(span, "error.type")).endswith(".ReadTimeout")
        assert attribute(span, "http.request.resend_count") == 1
        assert attribute(span, "lc.outcome") == "timeout"

    async def test_an_async_stream_that_hangs_is_a_timeout(
        self, emulator: AzureEmulator, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        received = []

        async def receive() -> None:
            async for one in model(emulator, timeout=0.3, max_retries=0).astream("a b c [[hang 2]]", config):
                received.append(one.text)  # noqa: PERF401 - what came before it broke off

        with pytest.raises(BROKEN):
            await receive()
        assert "".join(received) == "You said:"
        span = root(stored_trace(store_uri, tracer))
        assert span.outputs["prompt_filter_results"][0]["content_filter_results"]["jailbreak"]

    async def test_a_stream_that_is_left_early_releases_its_connection_as_without_the_tracer(
        self, emulator: AzureEmulator, seen: AzureChatOpenAI, config: Any
    ) -> None:
        async def left(client: AzureChatOpenAI) -> list[str]:
            stream: Any = client.stream("a b c d e [[pace 0.01]]", config)
            next(stream)
            stream.close()
            astream: Any = client.astream("a b c d e [[pace 0.01]]", config)
            await anext(astream)
            await astream.aclose()
            clients: list[Any] = [client.http_client, client.http_async_client]
            pools = (one._transport._pool for one in clients)
            return [connection.info() for pool in pools for connection in pool.connections]

        own: dict[str, Any] = {
            "http_client": openai.DefaultHttpxClient(),
            "http_async_client": openai.DefaultAsyncHttpxClient(),
        }
        assert await left(seen) == await left(AzureChatOpenAI(**emulator.chat(), **own))

    async def test_closing_a_read_stream_closes_the_stream_below(self) -> None:
        closed = []

        class Below:
            async def __aiter__(self) -> AsyncIterator[bytes]:
                try:
                    yield b"one"
                    yield b"two"
                finally:
                    closed.append("chunks")

            async def aclose(self) -> None:
                closed.append("stream")

        deaf: Any = _Deaf()
        stream = client._AsyncStream(Below(), deaf, deaf)
        chunks: Any = aiter(stream)
        assert await anext(chunks) == b"one"
        await chunks.aclose()
        assert closed == ["chunks"]
        await stream.aclose()
        assert closed == ["chunks", "stream"]

    def test_verdicts_are_read_from_a_malformed_stream(
        self, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        with serving(b": a filter\r\n\r\n:\r\r" + STREAM + b'data: {"filter') as address:
            text = "".join(one.text for one in model_at(address).stream("hi", config))
        assert text == "one two"
        assert tripped(root(stored_trace(store_uri, tracer))) == "violence"

    def test_verdicts_are_read_from_a_stream_that_the_sdk_cannot_read(
        self, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        junk = b'data: ["filter"]\n\n'
        with serving(STREAM.replace(b"data: [DONE]", b"data: {filter")) as address:
            with pytest.raises(ValueError, match="Expecting"):
                list(model_at(address).stream("hi", config))
        assert tripped(root(stored_trace(store_uri, tracer))) == "violence"
        with serving(junk + STREAM) as address, pytest.raises(Exception, match="list"):
            list(model_at(address).stream("hi", config))

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_verdicts_are_read_from_a_compressed_stream(
        self, encoding: str, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        packed = gzip.compress(STREAM) if encoding == "gzip" else zlib.compress(STREAM)
        with serving(packed, Content_Encoding=encoding) as address:
            text = "".join(one.text for one in model_at(address).stream("hi", config))
        assert text == "one two"
        assert tripped(root(stored_trace(store_uri, tracer))) == "violence"

    def test_a_stream_with_a_wrong_encoding_is_logged(
        self, config: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with (
            serving(STREAM, Content_Encoding="gzip") as address,
            pytest.raises(BROKEN),
        ):
            list(model_at(address).stream("hi", config))
        assert "a request could not be read: zlib.error" in caplog.text

    def test_a_huge_event_reaches_the_application_and_is_skipped_by_the_tracer(
        self, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        huge = "filter" * 1_000_000
        body = event_stream(chunk(huge, hate=TRIPPED), end="") + STREAM
        with serving(body) as address:
            text = "".join(one.text for one in model_at(address).stream("hi", config))
        assert text == f"{huge}one two"
        assert tripped(root(stored_trace(store_uri, tracer))) == "violence"

    def test_a_reader_that_fails_is_called_once_and_counted(
        self, seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        asked = []

        def fail(_: Events, data: bytes) -> list[bytes]:
            asked.append(data)
            raise RuntimeError("the content")

        monkeypatch.setattr(sse.Events, "feed", fail)
        assert "".join(one.text for one in seen.stream("one two", config)) == "You said: one two"
        assert len(asked) == 1
        assert [record.message for record in caplog.records] == [
            "a request could not be read: builtins.RuntimeError"
        ]
        assert tracer.stats()["problems"] == {"wire_failed": 1}

    def test_an_embedding_request_that_cannot_be_read_is_sent_and_counted(
        self, tracer: MlflowTracer, config: Any
    ) -> None:
        def send(_: object) -> int:
            with answering(200, b"[]") as address, http_clients()["http_client"] as sender:
                status: int = sender.post(f"{address}/embeddings", content=b"no JSON").status_code
                return status

        assert RunnableLambda(send).invoke(1, config) == 200
        assert tracer.stats()["problems"] == {"wire_failed": 1}

    async def test_no_failure_of_the_tracer_reaches_the_application(
        self, seen: AzureChatOpenAI, config: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Unstartable:
            logs = ()

            def start(self, request: Any) -> Any:
                raise RuntimeError

        class Broken:
            logs = ()

            def start(self, request: Any) -> Any:
                return self

            def fail(self, error: BaseException) -> None:
                raise RuntimeError

            def answer(self, response: Any, *, is_read: bool) -> Any:
                raise RuntimeError

        def never(_: Any) -> None:
            raise RuntimeError

        for find in (never, lambda _: Unstartable(), lambda _: Broken()):
            monkeypatch.setattr(exchange, "find", find)
            assert seen.invoke("hi", config).text == "You said: hi"
            assert (await seen.ainvoke("hi", config)).text == "You said: hi"
            assert [one async for one in seen.astream("hi", config)]
            with pytest.raises(openai.AuthenticationError):
                seen.invoke("hi [[401]]", config)
            with pytest.raises(openai.APIConnectionError):
                model_at("http://127.0.0.1:9").invoke("hi", config)

    def test_an_error_body_that_is_no_json_still_has_its_status_recorded(
        self, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        with answering(502, b"<html>filter", {"Content-Type": "application/json"}) as address:
            with pytest.raises(openai.InternalServerError):
                model_at(address).invoke("hi", config)
        assert attribute(root(stored_trace(store_uri, tracer)), "http.response.status_code") == 502


class TestEvents:
    @given(
        parts=st.lists(
            st.sampled_from([b"data: filter 1", b"data: x", b"filter", b"\n", b"\r\n", b"\r", b""])
        ),
        cuts=st.lists(st.integers(0, 60)),
    )
    def test_events_are_the_same_however_a_stream_is_cut_into_chunks(
        self, parts: list[bytes], cuts: list[int]
    ) -> None:
        text = b"".join(parts)
        edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
        events, whole = Events(b"filter"), Events(b"filter")
        found = [data for i, j in pairwise(edges) for data in events.feed(text[i:j])]
        assert found == whole.feed(text)
        assert all(b"filter" in data for data in found)

    def test_an_endless_line_is_not_kept_in_memory(self) -> None:
        events = Events(b"filter")
        for _ in range(100):
            assert events.feed(b"data: filter" * 10_000) == []
            assert len(events._line) <= sse.MAX_LINE + 120_000
        assert events.feed(b"\ndata: filter\n") == [b"filter"]

    def test_a_decompression_bomb_is_decompressed_in_pieces(self) -> None:
        packed = gzip.compress(b"x" * 50_000_000 + b"\ndata: filter\n")
        tracemalloc.start()
        try:
            assert Events(b"filter", compressed=True).feed(packed) == [b"filter"]
            assert tracemalloc.get_traced_memory()[1] < 10 * sse.MAX_LINE
        finally:
            tracemalloc.stop()


class TestVerdicts:
    def test_the_graver_of_two_verdicts_is_kept_in_either_order(self) -> None:
        mild, grave = {"filtered": False, "severity": "low"}, {"filtered": True, "severity": "low"}
        for order in ((mild, grave), (grave, mild)):
            verdicts = Verdicts()
            for told in order:
                verdicts.add(chunk(hate=told))
            assert verdicts.attributes()["azure.content_filter.tripped"] == "hate"

    def test_a_filter_that_only_detected_something_has_not_tripped(self) -> None:
        verdicts = Verdicts()
        verdicts.add(chunk(protected_material_text={"detected": True, "filtered": False}))
        assert verdicts.attributes() == {}

    def test_verdicts_of_a_broken_server_are_bounded(self) -> None:
        verdicts = Verdicts()
        for index in range(1000):
            verdicts.add({"choices": [{"index": index, "content_filter_results": {"a": SAFE}}]})
            verdicts.add(prompt_verdicts(**{f"filter {index}": SAFE}))
        assert len(verdicts._choices) < 500
        assert len(verdicts._prompts[0]) < 500

    @pytest.mark.parametrize(
        "told",
        [
            {"choices": None}, {"choices": [None]}, {"choices": [{"index": "0"}]},
            {"response": {"choices": 1}},
            {"content_filters": [{"content_filter_results": [1]}]}, {"prompt_filter_results": {}},
            {"choices": [{"index": 0, "content_filter_results": {"hate": 7, "error": {"code": "x"}}}]},
            {"choices": [{"index": 0, "content_filter_results": {"hate": {"severity": []}}}]},
        ],
    )  # fmt: skip
    def test_verdicts_of_unknown_shapes_are_ignored(self, told: Mapping[str, object]) -> None:
        verdicts = Verdicts()
        verdicts.add(told)
        assert verdicts.attributes() == {}
        outputs: Told = {"choices": [{"index": 0}, 7]}
        verdicts.fill(outputs)


async def test_a_traced_stream_may_be_read_by_another_task(
    seen: AzureChatOpenAI, config: Any, tracer: MlflowTracer, store_uri: str
) -> None:
    stream: AsyncIterator[Any] = seen.astream("a b c d [[filter:completion sexual]]", config)
    await anext(stream)

    async def rest() -> None:
        async for _ in stream:
            pass

    await asyncio.create_task(rest())
    assert tripped(named(stored_trace(store_uri, tracer), "AzureChatOpenAI")) == "sexual"
