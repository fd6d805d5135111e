"""Looks for the spans of embedding calls, of which LangChain itself tells nothing, in a real store."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import openai
import orjson
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from langgraph.graph import END, START, StateGraph
from mlflow.entities import Span, Trace
from pydantic import SecretStr

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, http_clients, install, uninstall
from langchain_mlflow_tracer.wire.embeddings import read_answer
from tests.conftest import MakeTracer
from tests.support.faults import answering
from tests.support.stored import attribute, named, root, stored_trace, stored_traces

TEXTS = ["one word", "two words", "three words"]

Told = dict[str, Any]
Shape = tuple[str, list[Any]]


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """Return a tracer that delivers into a real MLflow store."""
    return make_tracer(store_uri)


@pytest.fixture
def config(tracer: MlflowTracer) -> Any:
    """Return the config by which a chain is traced."""
    return {"callbacks": [tracer]}


@pytest.fixture
def embeddings(emulator: AzureEmulator) -> AzureOpenAIEmbeddings:
    """Return embeddings on the wire."""
    return make(emulator)


@pytest.fixture
def last(tracer: MlflowTracer, store_uri: str) -> Callable[[], Trace]:
    """Return a function that returns the trace that ended last."""
    return lambda: stored_trace(store_uri, tracer)


def make(emulator: AzureEmulator, **more: Any) -> AzureOpenAIEmbeddings:
    return AzureOpenAIEmbeddings(**{**emulator.embeddings(), **http_clients(), **more})


def family(trace: Trace, span: Span | None = None) -> Shape:
    """Return the names of a trace's spans, as a tree."""
    one = span or root(trace)
    below = [child for child in trace.data.spans if child.parent_id == one.span_id]
    return one.name, [family(trace, child) for child in sorted(below, key=lambda it: it.start_time_ns)]


def embedded(trace: Trace) -> Span:
    return named(trace, "embeddings")


class TestTheSpan:
    def test_an_embedding_span_has_request_and_answer_without_the_vectors(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        vectors = RunnableLambda(embeddings.embed_documents).invoke(TEXTS, config)
        span = embedded(last())
        assert (span.span_type, span.status.status_code) == ("EMBEDDING", "OK")
        assert span.inputs == {"input": TEXTS}
        assert span.outputs == {
            "count": 3,
            "dimensions": len(vectors[0]),
            "usage": {"prompt_tokens": 6, "total_tokens": 6},
        }
        told = {key: value for key, value in span.attributes.items() if not key.startswith("mlflow.span")}
        assert len(told.pop("azure.request_id")) == 36
        assert told.pop("mlflow.traceRequestId")
        assert told.pop("mlflow.llm.cost")
        assert told == {
            "mlflow.llm.provider": "azure",
            "mlflow.llm.model": "text-embedding-3-small",
            "gen_ai.request.model": "embeddings-prod",
            "gen_ai.response.model": "text-embedding-3-small",
            "azure.deployment": "embeddings-prod",
            "azure.api_version": "2024-10-21",
            "azure.region": "Sweden Central",
            "azure.ratelimit.remaining_requests": 599,
            "azure.ratelimit.remaining_tokens": 100_000 - 6,
            "lc.embedding.count": 3,
            "gen_ai.embeddings.dimension.count": 256,
            "mlflow.chat.tokenUsage": {"input_tokens": 6, "output_tokens": 0, "total_tokens": 6},
        }
        assert span.end_time_ns is not None
        assert span.end_time_ns > span.start_time_ns

    def test_mlflow_prices_an_embedding_call(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        RunnableLambda(embeddings.embed_query).invoke(" ".join(["word"] * 1000), config)
        assert attribute(embedded(last()), "mlflow.llm.cost")["total_cost"] == pytest.approx(1000 * 2e-8)
        assert last().info.token_usage == {"input_tokens": 1000, "output_tokens": 0, "total_tokens": 1000}

    def test_an_embedding_input_of_one_text_is_recorded_as_one_text(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        RunnableLambda(lambda text: embeddings.client.create(input=text, model="m")).invoke("hi", config)
        assert embedded(last()).inputs == {"input": "hi"}

    @pytest.mark.parametrize(
        ("sent", "shown"), [([1, 2, 3], {"tokens": 3}), ([[1, 2], [3]], [{"tokens": 2}, {"tokens": 1}])]
    )
    def test_embedding_inputs_of_tokens_are_only_counted(
        self,
        sent: Any,
        shown: object,
        embeddings: AzureOpenAIEmbeddings,
        config: Any,
        last: Callable[[], Trace],
    ) -> None:
        RunnableLambda(lambda it: embeddings.client.create(input=it, model="m")).invoke(sent, config)
        assert embedded(last()).inputs == {"input": shown}
        assert attribute(embedded(last()), "lc.embedding.count") == (2 if isinstance(shown, list) else 1)

    @pytest.mark.parametrize("form", ["float", "base64"])
    @pytest.mark.parametrize("size", [1, 2, 7, 3072])
    def test_dimensions_are_measured_in_base64_and_in_lists(self, form: str, size: int) -> None:
        vector: object = [0.5] * size
        if form == "base64":
            vector = base64.b64encode(bytes(4 * size)).decode()
        usage = {"prompt_tokens": 5, "total_tokens": 5, "prompt_tokens_details": None}
        data = [{"object": "embedding", "index": 0, "embedding": vector}] * 2
        body = {"object": "list", "data": data, "model": "m", "usage": usage}
        for written in (orjson.dumps(body), json.dumps(body, indent=2).encode()):
            told = read_answer(written, 2)
            assert told.outputs["dimensions"] == size
            assert told.attributes["mlflow.llm.model"] == "m"
            assert told.outputs["usage"] == {"prompt_tokens": 5, "total_tokens": 5}

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b'{"data":[{"embedding":', b'"embedding": [', b"\xff" * 99]
    )
    def test_an_embedding_answer_of_unknown_form_has_only_the_count(self, content: bytes) -> None:
        assert read_answer(content, 2).outputs == {"count": 2}

    def test_no_embedding_vector_is_recorded_anywhere(
        self,
        emulator: AzureEmulator,
        embeddings: AzureOpenAIEmbeddings,
        config: Any,
        last: Callable[[], Trace],
        tmp_path: Path,
    ) -> None:
        RunnableLambda(embeddings.embed_query).invoke("a telling word", config)
        assert embedded(last()).outputs["dimensions"] == 256
        raw = embeddings.client.create(input="a telling word", model="m", encoding_format="base64")
        packed = raw.data[0].embedding
        assert len(packed) > 100
        database = b"".join(path.read_bytes() for path in tmp_path.glob("mlflow.db*"))
        assert b"telling" in database
        assert str(packed)[:40].encode() not in database
        assert b"0.577" not in database

    def test_an_embedding_span_has_no_content_if_only_metadata_is_captured(
        self, embeddings: AzureOpenAIEmbeddings, make_tracer: MakeTracer, store_uri: str
    ) -> None:
        tracer = make_tracer(store_uri, capture="metadata")
        RunnableLambda(embeddings.embed_query).invoke("a private word", {"callbacks": [tracer]})
        span = embedded(stored_trace(store_uri, tracer))
        assert (span.inputs, span.outputs) == (None, None)
        assert attribute(span, "lc.embedding.count") == 1
        assert attribute(span, "mlflow.chat.tokenUsage")["input_tokens"] == 3

    def test_each_request_of_a_large_embedding_call_is_a_span(
        self, emulator: AzureEmulator, config: Any, last: Callable[[], Trace]
    ) -> None:
        RunnableLambda(make(emulator, chunk_size=2).embed_documents).invoke(TEXTS, config)
        counts = [attribute(span, "lc.embedding.count") for span in last().data.spans]
        assert sorted(count for count in counts if count) == [1, 2]

    def test_openais_own_embeddings_have_spans_without_facts_of_azure(
        self, config: Any, last: Callable[[], Trace]
    ) -> None:
        vector = {"object": "embedding", "index": 0, "embedding": base64.b64encode(bytes(8)).decode()}
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = orjson.dumps({"object": "list", "data": [vector], "model": "m-1", "usage": usage})
        with answering(200, body, {"Content-Type": "application/json"}) as address:
            client = OpenAIEmbeddings(
                base_url=f"{address}/v1", api_key=SecretStr("k"), model="m", check_embedding_ctx_length=False,
                **http_clients(),
            )  # fmt: skip
            RunnableLambda(client.embed_query).invoke("hi", config)
        span = embedded(last())
        assert attribute(span, "mlflow.llm.provider") == "openai"
        assert attribute(span, "gen_ai.request.model") == "m"
        assert not [key for key in span.attributes if key.startswith("azure.")]


class TestWhoseItIs:
    """The run that LangChain's own context names; inside a retriever, the retriever."""

    def test_an_embedding_call_is_below_the_function_that_makes_it(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        inner = RunnableLambda(embeddings.embed_query, name="inner")
        outer: Any = RunnableLambda(inner.invoke, name="outer")
        outer.invoke("hi", config)
        assert family(last()) == ("outer", [("inner", [("embeddings", [])])])

    async def test_an_embedding_call_is_below_the_async_function_that_makes_it(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        async def both(text: str) -> None:
            await asyncio.gather(embeddings.aembed_query(text), embeddings.aembed_documents([text]))

        await RunnableLambda(both).ainvoke("hi", config)
        assert family(last()) == ("both", [("embeddings", []), ("embeddings", [])])

    def test_an_embedding_call_is_below_the_tool_that_makes_it(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        @tool
        def look(word: str) -> int:
            """Look a word up."""
            return len(embeddings.embed_query(word))

        look.invoke({"word": "hi"}, config)
        assert family(last()) == ("look", [("embeddings", [])])

    async def test_an_embedding_call_is_below_the_node_that_makes_it(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        class State(TypedDict):
            text: str

        async def node(state: State) -> State:
            await embeddings.aembed_query(state["text"])
            return state

        graph: Any = StateGraph(State)
        graph.add_node("node", node)
        graph.add_edge(START, "node")
        graph.add_edge("node", END)
        await graph.compile().ainvoke({"text": "hi"}, config)
        assert family(last()) == ("LangGraph", [("node", [("embeddings", [])])])

    async def test_an_embedding_call_is_below_the_retriever_that_makes_it(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        retriever = (await InMemoryVectorStore.afrom_texts(TEXTS, embeddings)).as_retriever()
        below: Shape = ("VectorStoreRetriever", [("embeddings", [])])
        retriever.invoke("word", config)
        assert family(last()) == below
        await retriever.ainvoke("word", config)
        assert family(last()) == below
        (RunnableLambda(lambda text: text, name="id") | retriever).invoke("word", config)
        assert family(last()) == ("RunnableSequence", [("id", []), below])
        outer: Any = RunnableLambda(retriever.invoke, name="outer")
        outer.invoke("word", config)
        assert family(last()) == ("outer", [below])

    def test_an_embedding_call_is_below_the_innermost_open_run(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        store = InMemoryVectorStore.from_texts(TEXTS, embeddings)

        class Searching(BaseRetriever):
            def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
                inner = RunnableLambda(embeddings.embed_query, name="inner")
                inner.invoke(query, {"callbacks": run_manager.get_child()})
                store.as_retriever(name="nested").invoke(query, {"callbacks": run_manager.get_child()})
                embeddings.embed_query("once more")
                return []

        def search(query: str) -> None:
            Searching(name="outer").invoke(query)
            embeddings.embed_query(query)

        RunnableLambda(search).invoke("word", config)
        one: Shape = ("embeddings", [])
        assert family(last()) == ("search", [("outer", [("inner", [one]), ("nested", [one]), one]), one])

    def test_embedding_calls_of_several_threads_are_below_their_own_runs(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, tracer: MlflowTracer, store_uri: str
    ) -> None:
        RunnableLambda(embeddings.embed_query).batch(list("abcdefgh"), config)
        for trace in stored_traces(store_uri, tracer):
            assert [root(trace).inputs] == embedded(trace).inputs["input"]

    def test_an_embedding_call_is_recorded_by_the_tracers_of_its_chain_only(
        self, embeddings: AzureOpenAIEmbeddings, make_tracer: MakeTracer, store_uri: str
    ) -> None:
        one, two, other = (make_tracer(store_uri, name) for name in ("one", "two", "three"))
        install(other)
        retriever = InMemoryVectorStore(embeddings).as_retriever()
        for runnable in (RunnableLambda(embeddings.embed_query), retriever):
            runnable.invoke("hi", {"callbacks": [one, two]})
            for tracer in (one, two):
                assert embedded(stored_trace(store_uri, tracer)).inputs == {"input": ["hi"]}
        assert other.last_trace_id is None

    def test_an_installed_tracer_records_an_embedding_call_outside_of_runs_as_a_trace(
        self, embeddings: AzureOpenAIEmbeddings, tracer: MlflowTracer, last: Callable[[], Trace]
    ) -> None:
        install(tracer)
        embeddings.embed_documents(TEXTS)
        assert family(last()) == ("embeddings", [])
        assert last().info.state == "OK"
        uninstall()
        embeddings.embed_query("nobody listens")
        assert tracer.stats()["recorded"] == 1

    def test_an_installed_tracer_records_an_embedding_call_below_its_chain(
        self, embeddings: AzureOpenAIEmbeddings, tracer: MlflowTracer, last: Callable[[], Trace]
    ) -> None:
        install(tracer)
        RunnableLambda(embeddings.embed_query, name="chain").invoke("hi")
        assert family(last()) == ("chain", [("embeddings", [])])

    def test_an_embedding_call_that_is_not_sampled_or_ignored_is_not_recorded(
        self, embeddings: AzureOpenAIEmbeddings, make_tracer: MakeTracer
    ) -> None:
        never = make_tracer("http://127.0.0.1:9", forwarder="none", sample_rate=0.0)
        closed = make_tracer("http://127.0.0.1:9", forwarder="none")
        closed.close(timeout=0)
        retriever = InMemoryVectorStore(embeddings).as_retriever()
        for tracer in (never, closed):
            install(tracer)
            for given in (None, [tracer]):
                config: Any = {"callbacks": given}
                retriever.invoke("hi", config)
                RunnableLambda(embeddings.embed_query).invoke("hi", config)
            embeddings.embed_query("hi")
            assert tracer.stats()["recorded"] == 0
            assert not tracer.stats()["problems"]


class TestFailures:
    def test_an_embedding_call_with_retries_is_one_span(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        RunnableLambda(embeddings.embed_query, name="chain").invoke("hi [[429 x2]]", config)
        assert family(last()) == ("chain", [("embeddings", [])])
        span = embedded(last())
        assert (span.status.status_code, attribute(span, "lc.outcome")) == ("OK", None)
        assert [(event.name, event.attributes["attempt"]) for event in span.events] == [
            ("retry", 2),
            ("retry", 3),
        ]
        assert span.events[0].attributes["azure.error.code"] == "RateLimitReached"
        assert float(str(span.events[0].attributes["waited_seconds"])) >= 0.02
        assert attribute(span, "http.request.resend_count") == 2
        assert span.outputs["count"] == 1
        assert last().info.state == "OK"

    async def test_an_async_embedding_call_with_retries_is_one_span(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        async def both(text: str) -> None:
            asked = (embeddings.aembed_query(f"{text} {index} [[429 x1]]") for index in range(5))
            await asyncio.gather(*asked)

        await RunnableLambda(both, name="chain").ainvoke("hi", config)
        assert family(last()) == ("chain", [("embeddings", [])] * 5)
        spans = [span for span in last().data.spans if span.span_type == "EMBEDDING"]
        assert [[event.name for event in span.events] for span in spans] == [["retry"]] * 5

    def test_a_failed_embedding_call_records_the_reason(
        self, emulator: AzureEmulator, config: Any, last: Callable[[], Trace]
    ) -> None:
        with pytest.raises(openai.InternalServerError):
            RunnableLambda(make(emulator, max_retries=1).embed_query).invoke("hi [[500]]", config)
        span = embedded(last())
        assert (span.status.status_code, attribute(span, "lc.outcome")) == ("ERROR", "error")
        assert span.status.description == "HTTP 500 InternalServerError"
        assert [event.name for event in span.events] == ["retry"]
        assert attribute(span, "http.response.status_code") == 500
        assert attribute(span, "azure.error.code") == "InternalServerError"
        assert span.outputs is None
        assert [event.name for event in root(last()).events] == ["exception"]

    def test_an_embedding_call_that_a_filter_refuses_names_the_filter(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        with pytest.raises(openai.BadRequestError):
            RunnableLambda(embeddings.embed_query).invoke("hi [[filter:prompt hate]]", config)
        span = embedded(last())
        assert attribute(span, "azure.content_filter.tripped") == "hate"
        assert attribute(span, "azure.error.innererror")["code"] == "ResponsibleAIPolicyViolation"

    def test_an_embedding_call_that_times_out_has_the_outcome_timeout(
        self, emulator: AzureEmulator, config: Any, last: Callable[[], Trace]
    ) -> None:
        client = make(emulator, max_retries=1, timeout=0.2)
        with pytest.raises(openai.APITimeoutError):
            RunnableLambda(client.embed_query).invoke("hi [[slow 5]]", config)
        span = embedded(last())
        assert attribute(span, "lc.outcome") == "timeout"
        assert [event.name for event in span.events] == ["retry", "exception"]
        assert str(attribute(span, "error.type")).endswith(".ReadTimeout")

    async def test_an_embedding_call_that_is_cancelled_has_the_outcome_cancelled(
        self, embeddings: AzureOpenAIEmbeddings, config: Any, last: Callable[[], Trace]
    ) -> None:
        chain: Any = RunnableLambda(embeddings.aembed_query, name="chain")
        task = asyncio.create_task(chain.ainvoke("hi [[slow 5]]", config))
        with suppress(TimeoutError):
            await asyncio.wait_for(task, 0.3)
        assert attribute(embedded(last()), "lc.outcome") == "cancelled"

    def test_each_attempt_of_an_embedding_call_outside_of_runs_is_a_trace(
        self, embeddings: AzureOpenAIEmbeddings, tracer: MlflowTracer, store_uri: str
    ) -> None:
        install(tracer)
        embeddings.embed_query("hi [[429 x1]]")
        first, second = stored_traces(store_uri, tracer)
        assert (first.info.state, second.info.state) == ("ERROR", "OK")
        assert [event.name for event in root(second).events] == ["retry"]
        assert attribute(root(second), "http.request.resend_count") == 1

    def test_an_invalid_embedding_request_fails_as_without_the_tracer(
        self, config: Any, last: Callable[[], Trace]
    ) -> None:
        with answering(400, b"[]", {"Content-Type": "application/json"}) as address:
            client = openai.AzureOpenAI(
                azure_endpoint=address, api_key="k", api_version="1", max_retries=0,
                http_client=http_clients()["http_client"],
            )  # fmt: skip

            def ask(_: object) -> None:
                client.post("/embeddings", body={"no": "input"}, cast_to=object)

            with pytest.raises(openai.BadRequestError):
                RunnableLambda(ask).invoke(1, config)
        assert attribute(embedded(last()), "http.response.status_code") == 400


@pytest.fixture(autouse=True)
def nothing_was_misread(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is tested here, nothing of ours failed on the way."""
    yield
    assert "could not be read" not in caplog.text
    assert "could not record" not in caplog.text
