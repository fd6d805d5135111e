"""Evaluates chains with MLflow: over traces that are stored, and by running them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypedDict

import httpx
import mlflow
import mlflow.langchain
import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_openai import AzureChatOpenAI
from langgraph.graph import END, START, StateGraph
from mlflow.entities import Trace
from mlflow.genai.scorers import scorer

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, install, protect_mlflow_tracing
from tests.conftest import MakeTracer
from tests.support.stored import Shape, shape, stored_trace, stored_traces

pytestmark = pytest.mark.usefixtures("own_mlflow")


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """A tracer that records what an evaluation runs: autolog is switched off, and stays so."""
    mlflow.langchain.autolog(disable=True)
    return make_tracer(store_uri)


SHOUT = RunnableLambda[Any, Any](lambda asked: asked["question"].upper()).with_config(run_name="shout")
SHOUTED: Shape = ("shout", "CHAIN", [])


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def is_loud(outputs: Any) -> bool:
    return str(outputs).isupper()


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def spans(trace: Any) -> int:
    return len(trace.data.spans)


def test_mlflow_can_evaluate_stored_traces(store_uri: str, tracer: MlflowTracer) -> None:
    for question in ("why?", "how?"):
        SHOUT.invoke({"question": question}, {"callbacks": [tracer]})
    assert tracer.flush(timeout=60)
    result = mlflow.genai.evaluate(data=mlflow.search_traces(locations=["0"]), scorers=[is_loud, spans])
    assert (result.metrics["is_loud/mean"], result.metrics["spans/mean"]) == (1.0, 1.0)
    for stored in stored_traces(store_uri, tracer):
        assert {one.name for one in stored.info.assessments} == {"is_loud", "spans"}


@pytest.mark.parametrize("is_protected", [False, True])
def test_an_evaluated_chain_has_one_trace_for_each_row(
    store_uri: str, tracer: MlflowTracer, *, is_protected: bool
) -> None:
    if is_protected:
        protect_mlflow_tracing(tracer)

    def predict(question: str) -> Any:
        return SHOUT.invoke({"question": question}, {"callbacks": [tracer]})

    data = [{"inputs": {"question": question}} for question in ("why?", "how?", "who?")]
    result = mlflow.genai.evaluate(data=data, predict_fn=predict, scorers=[is_loud, spans])
    assert (result.metrics["is_loud/mean"], result.metrics["spans/mean"]) == (1.0, 2.0)
    mlflow.flush_trace_async_logging()
    stored = stored_traces(store_uri, tracer)
    assert [shape(one) for one in stored] == [("predict", "UNKNOWN", [SHOUTED])] * 3


class State(TypedDict):
    question: str
    answer: str


def lcel(model: AzureChatOpenAI) -> Runnable[Any, Any]:
    return ChatPromptTemplate.from_template("{question}") | model | StrOutputParser()


def graph(model: AzureChatOpenAI) -> Runnable[Any, Any]:
    async def anode(state: State, config: RunnableConfig) -> dict[str, object]:
        return {"answer": (await model.ainvoke(state["question"], config)).content}

    def node(state: State, config: RunnableConfig) -> dict[str, object]:
        return {"answer": model.invoke(state["question"], config).content}

    made = StateGraph(State)
    made.add_node("ask", RunnableLambda(node, anode))
    made.add_edge(START, "ask")
    made.add_edge("ask", END)
    return made.compile()


def agent(model: AzureChatOpenAI) -> Runnable[Any, Any]:
    def asked(given: dict[str, str]) -> dict[str, object]:
        return {"messages": [("user", given["question"])]}

    made: Runnable[Any, Any] = create_agent(model, [])
    return RunnableLambda(asked) | made


QUESTIONS = [f"question {number}" for number in range(6)]
MADE: list[Callable[[AzureChatOpenAI], Runnable[Any, Any]]] = [lcel, graph, agent]


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def models(trace: Any) -> int:
    return models_in(trace)


def models_in(stored: Any) -> int:
    """Return how often a model was asked; below each, an evaluation lets the client tell of itself."""
    return len([span for span in stored.data.spans if span.name == "AzureChatOpenAI"])


@pytest.fixture(params=["1", "4"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("MLFLOW_GENAI_EVAL_MAX_WORKERS", request.param)
    return int(request.param)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_an_evaluation_stores_one_trace_for_each_row_and_each_model_call_once(
    store_uri: str,
    tracer: MlflowTracer,
    emulator: AzureEmulator,
    workers: int,
    make: Callable[[AzureChatOpenAI], Runnable[Any, Any]],
    *,
    is_async: bool,
) -> None:
    chain, threads = make(AzureChatOpenAI(**emulator.chat())), set()

    async def apredict(question: str) -> Any:
        threads.add(threading.get_ident())
        # MLflow runs each row in an event loop of its own: connections must not be shared.
        async with httpx.AsyncClient() as client:
            own = make(AzureChatOpenAI(**emulator.chat(), http_async_client=client))
            return str(await own.ainvoke({"question": question}, {"callbacks": [tracer]}))

    def predict(question: str) -> Any:
        threads.add(threading.get_ident())
        return str(chain.invoke({"question": question}, {"callbacks": [tracer]}))

    data = [{"inputs": {"question": question}} for question in QUESTIONS]
    result = mlflow.genai.evaluate(
        data=data, predict_fn=apredict if is_async else predict, scorers=[models, is_loud]
    )
    assert result.metrics["models/mean"] == 1.0
    assert len(threads) > 1 or workers == 1
    mlflow.flush_trace_async_logging()
    stored = stored_traces(store_uri, tracer)
    assert [models_in(one) for one in stored] == [1] * len(QUESTIONS)
    assert {one.data.spans[0].inputs["question"] for one in stored} == set(QUESTIONS)
    for one in stored:
        assert {judged.name for judged in one.info.assessments} == {"models", "is_loud"}
        assert one.info.trace_metadata["mlflow.sourceRun"] == result.run_id


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
async def test_mlflow_can_evaluate_stored_traces_of_chains_graphs_and_agents(
    store_uri: str,
    tracer: MlflowTracer,
    model: AzureChatOpenAI,
    make: Callable[[AzureChatOpenAI], Runnable[Any, Any]],
) -> None:
    for question in QUESTIONS[:2]:
        await make(model).ainvoke({"question": question}, {"callbacks": [tracer]})
    assert await tracer.aflush(timeout=60)
    traces = mlflow.search_traces(locations=["0"])
    result = mlflow.genai.evaluate(data=traces, scorers=[models, is_loud])
    assert result.metrics["models/mean"] == 1.0
    for stored in stored_traces(store_uri, tracer):
        assert {one.name for one in stored.info.assessments} == {"models", "is_loud"}


def test_a_row_that_fails_in_an_evaluation_has_a_trace(
    store_uri: str, tracer: MlflowTracer, model: AzureChatOpenAI
) -> None:
    def checked(answer: str) -> str:
        if answer.endswith("3"):
            raise ValueError(answer)
        return answer

    def predict(question: str) -> Any:
        (lcel(model) | RunnableLambda(str)).invoke({"question": question}, {"callbacks": [tracer]})
        return RunnableLambda(checked).invoke(question, {"callbacks": [tracer]})

    install(tracer)
    data = [{"inputs": {"question": question}} for question in QUESTIONS]
    mlflow.genai.evaluate(data=data, predict_fn=predict, scorers=[is_loud])
    mlflow.flush_trace_async_logging()
    stored = stored_traces(store_uri, tracer)
    assert [shape(one)[0] for one in stored] == ["predict_fn"] * 2 * len(QUESTIONS)
    (failed,) = [one for one in stored if one.info.state.value == "ERROR"]
    assert (failed.data.spans[0].inputs, failed.data.spans[1].name) == ("question 3", "checked")


def test_an_evaluation_counts_the_tokens_of_a_chain_once(
    store_uri: str, tracer: MlflowTracer, model: AzureChatOpenAI
) -> None:
    config: RunnableConfig = {"callbacks": [tracer]}
    asked: Any = {"inputs": {"question": "why?"}}
    mlflow.genai.evaluate(
        data=[asked],
        predict_fn=lambda question: lcel(model).invoke({"question": question}, config),
        scorers=[is_loud],
    )
    (evaluated,) = stored_traces(store_uri, tracer)
    lcel(model).invoke(asked["inputs"], config)
    plain = stored_trace(store_uri, tracer)
    assert tokens(evaluated) == tokens(plain) > 0


def tokens(stored: Trace) -> int:
    return (stored.info.token_usage or {}).get("total_tokens", 0)


def test_an_evaluation_with_autolog_records_chains_only_by_autolog_and_logs_a_warning(
    store_uri: str, make_tracer: MakeTracer, model: AzureChatOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = make_tracer(store_uri)
    data = [{"inputs": {"question": question}} for question in QUESTIONS[:2]]
    result = mlflow.genai.evaluate(
        data=data,
        predict_fn=lambda question: lcel(model).invoke({"question": question}, {"callbacks": [tracer]}),
        scorers=[models],
    )
    assert result.metrics["models/mean"] == 1.0
    assert "to record them with the tracer instead" in caplog.text
    mlflow.flush_trace_async_logging()
    assert [models_in(one) for one in stored_traces(store_uri, tracer)] == [1, 1]
    assert tracer.stats()["recorded"] == 0
    SHOUT.invoke({"question": "after"}, {"callbacks": [tracer]})
    assert shape(stored_trace(store_uri, tracer)) == SHOUTED
