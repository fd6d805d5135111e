"""Reads from a real store what Azure says of models' calls: filters, regions, limits, errors, retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI
from mlflow.entities import Span
from mlflow.tracking import MlflowClient
from pydantic import SecretStr

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, http_clients
from langchain_mlflow_tracer.recording.models import azure
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import MakeTracer
from tests.support.faults import answering
from tests.support.stored import Shape, attribute, named, root, shape, stored_trace
from tests.wire.test_wire import (
    BROKEN,
    SAFE,
    TRIPPED,
    chunk,
    event_stream,
    model,
    model_at,
    prompt_verdicts,
    serving,
)

BLOCKED = "one two three four [[filter:completion]]"

Told = dict[str, Any]
Ask = Callable[..., Span]


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """Return a tracer that delivers into a real MLflow store."""
    return make_tracer(store_uri)


@pytest.fixture(params=["invoke", "stream", "ainvoke", "astream"])
def way(request: pytest.FixtureRequest) -> str:
    """Return each way in which a model can be asked."""
    return str(request.param)


@pytest.fixture
def ask(tracer: MlflowTracer, store_uri: str) -> Ask:
    """Return a function that asks a model, whatever comes of it, and returns the span of that."""

    def asked(runnable: Runnable[Any, Any], text: str, way: str = "invoke") -> Span:
        config: Any = {"callbacks": [tracer]}
        with suppress(*BROKEN, ValueError):
            if way == "invoke":
                runnable.invoke(text, config)
            elif way == "stream":
                list(runnable.stream(text, config))
            elif way == "ainvoke":
                asyncio.run(runnable.ainvoke(text, config))
            else:
                asyncio.run(consumed(runnable, text, config))
        return root(stored_trace(store_uri, tracer))

    return asked


async def consumed(runnable: Runnable[Any, Any], text: str, config: Any) -> None:
    async for _ in runnable.astream(text, config):
        pass


def facts(span: Span) -> Told:
    return {key: value for key, value in span.attributes.items() if key.startswith(("azure.", "http."))}


def retries(span: Span) -> list[Told]:
    return [dict(event.attributes) for event in span.events if event.name == "retry"]


class TestFilters:
    def test_verdicts_on_prompt_and_completion_are_in_the_answer_of_a_chat(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        outputs = ask(model(emulator), "hi", way).outputs
        assert outputs["prompt_filter_results"][0]["prompt_index"] == 0
        assert outputs["prompt_filter_results"][0]["content_filter_results"]["hate"] == SAFE
        assert outputs["choices"][0]["content_filter_results"]["violence"] == SAFE
        assert outputs["choices"][0]["finish_reason"] == "stop"

    def test_the_span_names_the_filter_that_cut_a_completion_off(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        span = ask(model(emulator), BLOCKED, way)
        (choice,) = span.outputs["choices"]
        assert choice["finish_reason"] == "content_filter"
        assert choice["message"]["content"] == "You said: one"
        assert choice["content_filter_results"]["violence"] == TRIPPED
        assert choice["content_filter_results"]["hate"] == SAFE
        assert span.outputs["prompt_filter_results"][0]["content_filter_results"]["hate"] == SAFE
        assert attribute(span, "azure.content_filter.tripped") == "violence"
        assert attribute(span, "azure.content_filter.source") == "completion"
        assert attribute(span, "gen_ai.response.finish_reasons") == ["content_filter"]

    def test_a_blocked_completion_has_its_tokens_and_cost(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        span = ask(model(emulator), BLOCKED, way)
        assert attribute(span, "mlflow.llm.model") == "gpt-4o-2024-11-20"
        assert attribute(span, "mlflow.chat.tokenUsage")["input_tokens"] == 11
        assert attribute(span, "mlflow.chat.tokenUsage")["output_tokens"] == 3
        assert attribute(span, "mlflow.llm.cost")["total_cost"] > 0

    def test_the_span_names_the_filter_that_refused_a_prompt(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        for client in (model(emulator), AzureChatOpenAI(**emulator.chat())):
            span = ask(client, "hi [[filter:prompt jailbreak]]", way)
            assert attribute(span, "azure.content_filter.tripped") == "jailbreak"
            assert attribute(span, "azure.content_filter.source") == "prompt"
            inner = attribute(span, "azure.error.innererror")
            assert inner["code"] == "ResponsibleAIPolicyViolation"
            assert inner["content_filter_result"]["hate"] == SAFE

    def test_an_invoked_answer_has_its_verdicts_without_http_clients(
        self, emulator: AzureEmulator, ask: Ask
    ) -> None:
        span = ask(AzureChatOpenAI(**emulator.chat()), "hi")
        assert span.outputs["choices"][0]["content_filter_results"]["violence"] == SAFE
        assert attribute(span, "azure.content_filter.tripped") is None

    def test_mlflow_searches_traces_by_the_tripped_filter(
        self, emulator: AzureEmulator, ask: Ask, tracer: MlflowTracer, store_uri: str
    ) -> None:
        for name in ("hate", "violence"):
            ask(model(emulator), f"one two three four [[filter:completion {name}]]", "stream")

        def found(condition: str) -> int:
            return len(MlflowClient(store_uri).search_traces(locations=["0"], filter_string=condition))

        assert found("span.attributes.azure.content_filter.tripped LIKE '%'") == 2
        assert found("span.attributes.azure.content_filter.tripped RLIKE '^hate$'") == 1
        assert found("span.attributes.azure.content_filter.tripped RLIKE '^sexual'") == 0
        assert found("span.attributes.azure.region LIKE '%Sweden Central%'") == 2

    def test_verdicts_that_come_after_the_text_are_recorded(self, ask: Ask) -> None:
        """Azure's asynchronous filter tells of the text in chunks of their own, also after the last token."""
        body = event_stream(
            prompt_verdicts(hate=SAFE),
            chunk("one "), chunk("two"), chunk(hate=SAFE, violence=SAFE), chunk(reason="stop"),
            chunk(protected_material_text={"detected": True, "filtered": False}, violence=SAFE),
        )  # fmt: skip
        with serving(body) as address:
            span = ask(model_at(address), "hi", "stream")
        assert span.outputs["choices"][0]["message"]["content"] == "one two"
        assert set(span.outputs["choices"][0]["content_filter_results"]) == {
            "hate", "violence", "protected_material_text",
        }  # fmt: skip
        assert attribute(span, "azure.content_filter.tripped") is None

    def test_filters_that_trip_in_several_places_are_all_recorded(self, ask: Ask) -> None:
        blocklists = {"filtered": True, "details": [{"id": "bank-names", "filtered": True}]}
        body = event_stream(
            prompt_verdicts(indirect_attack={"detected": True, "filtered": True}),
            chunk("one", hate=TRIPPED), chunk(custom_blocklists=blocklists), chunk(reason="content_filter"),
        )  # fmt: skip
        with serving(body) as address:
            span = ask(model_at(address), "hi", "astream")
        assert attribute(span, "azure.content_filter.tripped") == "custom_blocklists, hate, indirect_attack"
        assert attribute(span, "azure.content_filter.source") == "prompt, completion"

    def test_an_abandoned_stream_has_the_verdicts_that_had_come(
        self, emulator: AzureEmulator, tracer: MlflowTracer, store_uri: str
    ) -> None:
        def begin(text: str) -> str:
            stream = model(emulator).stream(text)
            return "".join(next(stream).text for _ in range(4))

        RunnableLambda(begin).invoke("a b c d [[pace 0.01]]", {"callbacks": [tracer]})
        span = named(stored_trace(store_uri, tracer), "AzureChatOpenAI")
        assert span.outputs["prompt_filter_results"][0]["content_filter_results"]["hate"] == SAFE


class TestResponsesApi:
    FILTERS = (
        {"source_type": "prompt", "blocked": False, "content_filter_results": {"hate": SAFE}},
        {"source_type": "completion", "blocked": True, "content_filter_results": {"violence": TRIPPED}},
    )

    def response(self, *filters: Told, text: str = "one two") -> Told:
        part = {"type": "output_text", "text": text, "annotations": []}
        message = {"id": "m", "type": "message", "role": "assistant", "content": [part]}
        return {
            "id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed",
            "output": [{**message, "status": "completed"}],
            "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "content_filters": list(filters),
        }  # fmt: skip

    def asked(self, address: str) -> AzureChatOpenAI:
        return model_at(address, use_responses_api=True)

    @pytest.mark.parametrize("way", ["invoke", "ainvoke"])
    def test_an_answer_of_the_responses_api_has_its_verdicts(self, way: str, ask: Ask) -> None:
        body = json.dumps(self.response(*self.FILTERS)).encode()
        with answering(200, body, {"Content-Type": "application/json"}) as address:
            self.check(ask(self.asked(address), "hi", way))

    @pytest.mark.parametrize("way", ["stream", "astream"])
    def test_a_streamed_answer_of_the_responses_api_has_its_verdicts(self, way: str, ask: Ask) -> None:
        delta = {
            "type": "response.output_text.delta", "sequence_number": 1, "output_index": 0, "content_index": 0,
            "item_id": "m", "delta": "one two", "logprobs": [],
        }  # fmt: skip
        begun = {"type": "response.created", "response": self.response(self.FILTERS[0]), "sequence_number": 0}
        done = {"type": "response.completed", "response": self.response(*self.FILTERS), "sequence_number": 2}
        with serving(event_stream(begun, delta, done, end="")) as address:
            self.check(ask(self.asked(address), "hi", way))

    def check(self, span: Span) -> None:
        assert span.outputs["choices"][0]["message"]["content"] == "one two"
        assert span.outputs["choices"][0]["content_filter_results"] == {"violence": TRIPPED}
        assert span.outputs["prompt_filter_results"] == [
            {"prompt_index": 0, "content_filter_results": {"hate": SAFE}}
        ]
        assert attribute(span, "azure.content_filter.tripped") == "violence"

    def test_a_prompt_refused_by_the_responses_api_has_its_filter(self, ask: Ask) -> None:
        refused = {"source_type": "prompt", "blocked": True, "content_filter_results": {"jailbreak": TRIPPED}}
        error = {"error": {"code": "content_filter", "message": "no", "content_filters": [refused]}}
        body = json.dumps(error).encode()
        with answering(400, body, {"Content-Type": "application/json"}) as address:
            span = ask(self.asked(address), "hi")
        assert attribute(span, "azure.content_filter.tripped") == "jailbreak"
        assert attribute(span, "azure.error.code") == "content_filter"


class TestWhereAndHowMuch:
    def test_azures_model_version_region_request_id_and_rate_limit_are_attributes(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        told = facts(ask(model(emulator), "hi", way))
        assert len(told.pop("azure.request_id")) == 36
        assert told.pop("azure.ratelimit.remaining_tokens") in {99_990, 100_000}
        assert told == {
            "azure.deployment": "gpt-4o-prod",
            "azure.api_version": "2024-10-21",
            "azure.region": "Sweden Central",
            "azure.ratelimit.remaining_requests": 599,
        }

    def test_response_headers_in_the_answer_give_azures_facts_without_http_clients(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        told = facts(ask(AzureChatOpenAI(**emulator.chat(), include_response_headers=True), "hi", way))
        assert told["azure.region"] == "Sweden Central"
        assert told["azure.ratelimit.remaining_requests"] == 599
        assert told["azure.api_version"] == "2024-10-21"

    def test_the_api_version_is_recorded_without_http_clients(
        self, emulator: AzureEmulator, ask: Ask
    ) -> None:
        told = facts(ask(AzureChatOpenAI(**emulator.chat()), "hi"))
        assert told == {"azure.deployment": "gpt-4o-prod", "azure.api_version": "2024-10-21"}

    def test_azure_is_recognized_by_its_address_behind_the_client_of_openai(
        self, emulator: AzureEmulator, ask: Ask
    ) -> None:
        client = ChatOpenAI(
            base_url=f"{emulator.endpoint}/openai/v1",
            api_key=SecretStr(emulator.api_key),
            model="gpt-4o-prod",
            **http_clients(),
        )
        assert facts(ask(client, "hi", "stream"))["azure.region"] == "Sweden Central"

    def test_other_providers_have_no_facts_of_azure(self, ask: Ask) -> None:
        body = json.dumps({"error": {"code": "no", "message": "no"}}).encode()
        headers = {"Content-Type": "application/json", "retry-after": "7"}
        with answering(429, body, headers) as address:
            client = ChatOpenAI(
                base_url=f"{address}/v1",
                api_key=SecretStr("k"),
                model="m",
                max_retries=0,
                **http_clients(),
            )
            assert facts(ask(client, "hi")) == {"http.response.status_code": 429}

    @pytest.mark.parametrize("sent", ["", "x", "nan", "inf", "1e999", "-", "9" * 10_000, "1 0", "٣x"])
    def test_headers_that_hold_no_number_are_left_out(self, sent: str) -> None:
        names = ("x-ratelimit-remaining-requests", "retry-after", "retry-after-ms")
        assert azure.of_headers(dict.fromkeys(names, sent)) == {}

    def test_a_retry_time_in_milliseconds_is_preferred_to_one_in_seconds(self) -> None:
        assert azure.of_headers({"retry-after": "1", "retry-after-ms": "20"}) == {
            "azure.retry_after_seconds": 0.02
        }
        assert azure.of_headers({"retry-after": "3"}) == {"azure.retry_after_seconds": 3.0}


class TestFailures:
    def test_a_failed_call_has_the_status_code_and_headers_of_its_answer(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        for more in ({}, {"http_client": None, "http_async_client": None}):
            span = ask(model(emulator, max_retries=0, **more), "hi [[429 after 3]]", way)
            told = facts(span)
            assert len(told.pop("azure.request_id")) == 36
            assert told == {
                "azure.deployment": "gpt-4o-prod",
                "azure.api_version": "2024-10-21",
                "http.response.status_code": 429,
                "azure.error.code": "RateLimitReached",
                "azure.region": "Sweden Central",
                "azure.ratelimit.remaining_requests": 0,
                "azure.ratelimit.remaining_tokens": 0,
                "azure.retry_after_seconds": 3.0,
            }
            assert span.outputs is None

    def test_an_error_in_the_middle_of_a_stream_has_its_code(self, ask: Ask) -> None:
        error = {"error": {"code": "content_filter", "message": "no", "innererror": {"code": "X"}}}
        with serving(event_stream(chunk("one"), error)) as address:
            span = ask(model_at(address), "hi", "stream")
        assert attribute(span, "azure.error.code") == "content_filter"
        assert attribute(span, "azure.error.innererror") == {"code": "X"}
        assert span.outputs["choices"][0]["message"]["content"] == "one"

    def test_an_exception_of_the_user_has_no_facts_of_azure(self, emulator: AzureEmulator, ask: Ask) -> None:
        def broken(_: object) -> str:
            raise ValueError

        assert facts(ask(RunnableLambda(broken), "hi")) == {}

    def test_no_text_of_an_error_is_recorded_when_only_metadata_is_captured(
        self, emulator: AzureEmulator, make_tracer: MakeTracer, store_uri: str
    ) -> None:
        tracer = make_tracer(store_uri, capture="metadata")
        detail = {"filtered": True, "severity": "high", "citation": "private words"}
        inner = {
            "code": "X", "message": "private words", "content_filter_result": {"hate": detail},
            "innererror": {"code": "Y", "reason": "private words"},
        }  # fmt: skip
        body = json.dumps({"error": {"code": "C", "message": "private words", "innererror": inner}}).encode()
        with answering(400, body, {"Content-Type": "application/json"}) as address:
            for more in ({}, {"http_client": None}):
                with pytest.raises(openai.BadRequestError):
                    model_at(address, **more).invoke("private words", {"callbacks": [tracer]})
                span = root(stored_trace(store_uri, tracer))
                assert attribute(span, "azure.error.code") == "C"
                assert attribute(span, "azure.content_filter.tripped") == "hate"
                assert attribute(span, "azure.error.innererror") == {
                    "code": "X",
                    "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
                    "innererror": {"code": "Y"},
                }
                assert "private" not in json.dumps(span.to_dict())
        with pytest.raises(ValueError, match="content filter"):
            model(emulator).invoke(BLOCKED, {"callbacks": [tracer]})
        span = root(stored_trace(store_uri, tracer))
        assert span.outputs is None
        assert attribute(span, "azure.content_filter.tripped") == "violence"
        assert attribute(span, "gen_ai.response.finish_reasons") == ["content_filter"]


class TestRetries:
    def test_retries_of_the_sdk_and_their_waits_are_events(
        self, way: str, emulator: AzureEmulator, ask: Ask
    ) -> None:
        span = ask(model(emulator), "hi [[429 x2]]", way)
        assert [told["attempt"] for told in retries(span)] == [2, 3]
        for told in retries(span):
            assert told["http.response.status_code"] == 429
            assert told["azure.retry_after_seconds"] == 0.02
            assert 0.02 <= told["waited_seconds"] < 2
            assert told["azure.ratelimit.remaining_tokens"] == 0
            # A stream's error is not read by the SDK before it tries again, so neither is it by us.
            assert told.get("azure.error.code") == (None if "stream" in way else "RateLimitReached")
        assert attribute(span, "http.request.resend_count") == 2
        assert attribute(span, "azure.ratelimit.remaining_requests") == 599
        assert attribute(span, "http.response.status_code") is None
        assert span.outputs["choices"][0]["message"]["content"] == "You said: hi"

    def test_a_call_that_fails_has_an_event_for_every_attempt(
        self, emulator: AzureEmulator, ask: Ask
    ) -> None:
        span = ask(model(emulator, max_retries=1), "hi [[500]]")
        (told,) = retries(span)
        assert (told["attempt"], told["http.response.status_code"]) == (2, 500)
        assert told["azure.error.code"] == "InternalServerError"
        assert attribute(span, "http.response.status_code") == 500
        assert attribute(span, "http.request.resend_count") == 1
        assert [event.name for event in span.events] == ["retry", "exception"]

    def test_a_refused_connection_is_an_event(self, way: str, ask: Ask) -> None:
        span = ask(model_at("http://127.0.0.1:9", max_retries=1), "hi", way)
        (told,) = retries(span)
        assert told["error.type"].endswith(".ConnectError")
        assert attribute(span, "error.type").endswith(".ConnectError")

    async def test_a_call_cancelled_while_it_waits_has_the_attempt_it_waits_for(
        self, emulator: AzureEmulator, tracer: MlflowTracer, store_uri: str
    ) -> None:
        chain: Any = RunnableLambda(model(emulator).ainvoke, name="chain")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(chain.ainvoke("hi [[429 after 30]]", {"callbacks": [tracer]}), 1)
        span = named(await asyncio.to_thread(stored_trace, store_uri, tracer), "AzureChatOpenAI")
        assert attribute(span, "lc.outcome") == "cancelled"
        assert attribute(span, "azure.error.code") == "RateLimitReached"
        assert attribute(span, "azure.retry_after_seconds") == 30

    def test_retries_of_the_sdk_are_not_recorded_without_http_clients(
        self, emulator: AzureEmulator, ask: Ask
    ) -> None:
        assert ask(AzureChatOpenAI(**emulator.chat()), "hi [[429 x1]]").events == []

    def test_attempts_of_with_retry_are_numbered(self, tracer: MlflowTracer, store_uri: str) -> None:
        attempts = []

        def flaky(value: int) -> int:
            attempts.append(value)
            if len(attempts) < 3:
                raise ValueError(len(attempts))
            return value

        step = RunnableLambda(flaky).with_retry(wait_exponential_jitter=False)
        (RunnableLambda(lambda x: x) | step).invoke(1, {"callbacks": [tracer]})
        spans = sorted(stored_trace(store_uri, tracer).data.spans, key=lambda span: span.start_time_ns)
        numbers = [attribute(span, "lc.retry.attempt") for span in spans if span.name == "flaky"]
        assert numbers == [None, None, 2, 3]  # the run that tries, and its attempts: the first is not tagged


class TestFallbacks:
    @pytest.fixture
    def broken(self, emulator: AzureEmulator) -> AzureChatOpenAI:
        return AzureChatOpenAI(**{**emulator.chat(), "azure_deployment": "none"}, max_retries=0)

    def models(self, store_uri: str, tracer: MlflowTracer) -> list[tuple[object, object]]:
        spans = sorted(stored_trace(store_uri, tracer).data.spans, key=lambda span: span.start_time_ns)
        models = [span for span in spans if span.span_type == "CHAT_MODEL"]
        return [(attribute(span, "azure.deployment"), attribute(span, "lc.fallback")) for span in models]

    def test_attempts_of_with_fallbacks_are_marked(
        self, emulator: AzureEmulator, broken: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        good = AzureChatOpenAI(**emulator.chat())
        config: Any = {"callbacks": [tracer]}
        broken.with_fallbacks([broken, good]).invoke("hi", config)
        expected = [("none", None), ("none", 1), ("gpt-4o-prod", 2)]
        assert self.models(store_uri, tracer) == expected
        list(broken.with_fallbacks([broken, good]).stream("hi", config))
        assert self.models(store_uri, tracer) == expected

    def test_attempts_of_with_fallbacks_are_below_their_run_where_langchain_gives_no_parent(
        self, emulator: AzureEmulator, broken: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        chain = RunnableLambda(str) | broken.with_fallbacks([AzureChatOpenAI(**emulator.chat())])
        below: Shape = ("RunnableWithFallbacks", "CHAIN", [("AzureChatOpenAI", "CHAT_MODEL", [])] * 2)
        chain.invoke("hi", {"callbacks": [tracer]})
        assert shape(stored_trace(store_uri, tracer))[2][1] == below
        list(chain.stream("hi", {"callbacks": [tracer]}))
        assert shape(stored_trace(store_uri, tracer))[2][1] == below

    async def test_asynchronous_attempts_of_with_fallbacks_are_marked(
        self, emulator: AzureEmulator, broken: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        good = AzureChatOpenAI(**emulator.chat())
        await broken.with_fallbacks([good]).ainvoke("hi", {"callbacks": [tracer]})
        assert self.models(store_uri, tracer) == [("none", None), ("gpt-4o-prod", 1)]

    def test_fallbacks_of_an_agents_middleware_are_marked(
        self, emulator: AzureEmulator, broken: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        agent: Any = create_agent(
            broken, middleware=[ModelFallbackMiddleware(AzureChatOpenAI(**emulator.chat()))]
        )
        agent.invoke({"messages": ["hi"]}, {"callbacks": [tracer]})
        assert self.models(store_uri, tracer) == [("none", None), ("gpt-4o-prod", 1)]

    def test_a_retried_model_is_not_marked_as_a_fallback(
        self, emulator: AzureEmulator, tracer: MlflowTracer, store_uri: str
    ) -> None:
        retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)
        agent: Any = create_agent(AzureChatOpenAI(**emulator.chat(), max_retries=0), middleware=[retry])
        agent.invoke({"messages": ["hi [[500 x1]]"]}, {"callbacks": [tracer]})
        assert self.models(store_uri, tracer) == [("gpt-4o-prod", None), ("gpt-4o-prod", None)]

    def test_a_model_called_after_an_unrelated_failure_is_not_marked_as_a_fallback(
        self, emulator: AzureEmulator, broken: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        def both(text: str) -> str:
            with suppress(openai.NotFoundError):
                broken.invoke(text)
            return AzureChatOpenAI(**emulator.chat()).invoke(text).text

        RunnableLambda(both).invoke("hi", {"callbacks": [tracer]})
        assert self.models(store_uri, tracer) == [("none", None), ("gpt-4o-prod", None)]


class TestUsage:
    def test_a_stream_without_token_usage_is_logged_once(
        self, emulator: AzureEmulator, ask: Ask, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            ask(AzureChatOpenAI(**emulator.chat(), **http_clients()), "hi", "stream")
        ask(model(emulator), "hi", "stream")
        ask(model(emulator), "hi", "invoke")
        assert [record.message for record in caplog.records if "stream_usage=True" in record.message] == [
            "no token usage in a streamed answer, so no cost: pass stream_usage=True beside http_clients()"
        ]


TEXTS = ("hi", BLOCKED, "hi [[filter:prompt]]", "hi [[429 x1]]", "hi [[hang]]", "hi [[break 1]]")
KEY, HEADER, TOKEN = "k3y-of-the-resource", "v4lue-of-a-header", "t0ken-of-the-directory"


@contextmanager
def guarded() -> Iterator[AzureEmulator]:
    with AzureEmulator(api_key=KEY) as emulator:
        yield emulator


def test_no_key_header_or_address_is_recorded_anywhere(
    make_tracer: MakeTracer, store_uri: str, tmp_path: Path
) -> None:
    """Neither in the store nor in the spool, not even when nothing is masked."""
    stored = make_tracer(store_uri, redact=False)
    spooled = make_tracer("http://127.0.0.1:9", redact=False, forwarder="none", spool_dir=tmp_path / "kept")
    config: Any = {"callbacks": [stored, spooled]}
    with guarded() as emulator:
        headers = {"x-tenant": HEADER}
        more: dict[str, Any] = {"default_headers": headers, "max_retries": 1, "timeout": 0.3}
        host = emulator.endpoint.removeprefix("http://")
        clients = [
            model(emulator, **more),
            model(emulator, **more, include_response_headers=True),
            model(emulator, **more, api_key=None, azure_ad_token=TOKEN),
            model(emulator, **more, azure_deployment="none"),
        ]
        embeddings = AzureOpenAIEmbeddings(**emulator.embeddings(), **more, **http_clients())
        chains: list[Runnable[Any, Any]] = [*clients, RunnableLambda(embeddings.embed_query)]
        with ThreadPoolExecutor(len(chains)) as pool:
            list(pool.map(lambda chain: ask_all(chain, config), chains))
        asyncio.run(ask_all_at_once(chains, config))
    with suppress(openai.OpenAIError):
        clients[0].invoke("nobody is there any more", config)
    assert stored.flush(60)
    assert spooled.stats()["recorded"] == stored.stats()["recorded"] > 80
    spooled.close(timeout=5)
    spool = Spool(tmp_path / "kept", max_bytes=2**40)
    payloads = [one.payload for d in spool.destinations() for one in spool.lease(d, 1_000, 2**40)]
    spool.close()
    database = b"".join(path.read_bytes() for path in tmp_path.glob("mlflow.db*"))
    everything = [database, *payloads, *(path.read_bytes() for path in (tmp_path / "kept").iterdir())]
    assert b"azure.region" in database
    assert len(payloads) > 80
    for secret in (KEY, HEADER, TOKEN, host, "authorization", "api-key", "x-tenant"):
        assert not any(secret.encode() in content for content in everything), secret


def ask_all(chain: Runnable[Any, Any], config: Any) -> None:
    """Invoke and stream with each text, whatever comes of it."""
    for text in TEXTS:
        with suppress(*BROKEN, ValueError):
            chain.invoke(text, config)
        with suppress(*BROKEN, ValueError):
            list(chain.stream(text, config))


async def ask_all_at_once(chains: list[Runnable[Any, Any]], config: Any) -> None:
    """Invoke and stream each chain with each text: many calls only wait for their timeout."""

    async def attempt(call: Awaitable[object]) -> None:
        with suppress(*BROKEN, ValueError):
            await call

    calls = [
        call
        for text in TEXTS
        for chain in chains
        for call in (chain.ainvoke(text, config), consumed(chain, text, config))
    ]
    await asyncio.gather(*map(attempt, calls))
