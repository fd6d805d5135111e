"""Uses prompts of MLflow's registry in chains, and finds the traces by them; by models and runs too."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypedDict

import mlflow
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_openai import AzureChatOpenAI
from langgraph.graph import END, START, StateGraph
from mlflow.entities.model_registry import PromptVersion
from mlflow.tracking import MlflowClient

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, join_trace, protect_mlflow_tracing
from tests.conftest import MakeTracer, wait_for
from tests.support.stored import stored_trace

KEY = "mlflow_prompt"


@pytest.fixture(params=["store", "server"])
def uri(request: pytest.FixtureRequest) -> Iterator[str]:
    request.getfixturevalue("own_mlflow")
    found = str(request.getfixturevalue("store_uri" if request.param == "store" else "server"))
    mlflow.set_tracking_uri(found)
    mlflow.set_registry_uri(found)
    yield found
    mlflow.set_registry_uri("")


@pytest.fixture
def tracer(make_tracer: MakeTracer, uri: str) -> MlflowTracer:
    return make_tracer(uri)


@pytest.fixture
def prompt(uri: str, request: pytest.FixtureRequest) -> PromptVersion:
    """Load a prompt as an application does when it starts: in no run."""
    name = "".join(sign if sign.isalnum() else "-" for sign in request.node.name)
    mlflow.genai.register_prompt(name=name, template="Tell me about {{topic}}.")
    assert mlflow.get_tracking_uri() == uri
    loaded = mlflow.genai.load_prompt(f"prompts:/{name}/1")
    assert isinstance(loaded, PromptVersion)
    return loaded


def text(prompt: PromptVersion) -> str:
    return str(prompt.to_single_brace_format())


def found_by(uri: str, filter_string: str) -> list[str]:
    mlflow.flush_trace_async_logging()
    found = MlflowClient(uri).search_traces(locations=["0"], filter_string=filter_string)
    return [trace.info.trace_id for trace in found]


def used(uri: str, tracer: MlflowTracer, prompt: PromptVersion) -> list[str]:
    """Return the traces by which a prompt is found once all is delivered."""
    assert tracer.flush(timeout=60), tracer.stats()
    return found_by(uri, f"prompt = '{prompt.name}/{prompt.version}'")


# Prompts that are loaded inside a run.


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_search_by_prompt_finds_the_traces_of_chains_that_load_the_prompt(
    uri: str, tracer: MlflowTracer, *, is_async: bool
) -> None:
    name = f"greeting-{is_async}"
    mlflow.genai.register_prompt(name=name, template="Hello {{name}}")

    def greet(who: str) -> str:
        prompt: Any = mlflow.genai.load_prompt(f"prompts:/{name}/1")
        return str(prompt.format(name=who))

    chain = RunnableLambda(greet)
    for who in ("Ada", "Bob"):
        config: Any = {"callbacks": [tracer]}
        said = await chain.ainvoke(who, config) if is_async else chain.invoke(who, config)
        assert said == f"Hello {who}"
    assert await tracer.aflush(timeout=60)
    found = await asyncio.to_thread(found_by, uri, f"prompt = '{name}/1'")
    assert len(found) == 2
    assert tracer.last_trace_id in found
    stored = await asyncio.to_thread(MlflowClient(uri).get_trace, found[0])
    assert name in stored.info.tags["mlflow.linkedPrompts"]


# Prompts that were loaded before.


def from_a_template(prompt: PromptVersion, model: AzureChatOpenAI) -> Runnable[Any, Any]:
    return ChatPromptTemplate([("user", text(prompt))], metadata={KEY: prompt.uri}) | model


def from_a_text_template(prompt: PromptVersion, model: AzureChatOpenAI) -> Runnable[Any, Any]:
    return PromptTemplate.from_template(text(prompt), metadata={KEY: prompt}) | model


def from_a_template_with_config(prompt: PromptVersion, model: AzureChatOpenAI) -> Runnable[Any, Any]:
    template = ChatPromptTemplate.from_messages([("user", text(prompt))])
    return template.with_config(metadata={KEY: [prompt.uri]}) | model


def from_a_chain_with_config(prompt: PromptVersion, model: AzureChatOpenAI) -> Runnable[Any, Any]:
    chain = ChatPromptTemplate.from_messages([("user", text(prompt))]) | model
    return chain.with_config(metadata={KEY: prompt.uri})


def from_a_model(prompt: PromptVersion, model: AzureChatOpenAI) -> Runnable[Any, Any]:
    told = model.model_copy(update={"metadata": {KEY: prompt.uri}})
    return ChatPromptTemplate.from_messages([("user", text(prompt))]) | told


class State(TypedDict):
    topic: str


def from_a_node(prompt: PromptVersion, model: AzureChatOpenAI) -> Runnable[Any, Any]:
    async def anode(state: State, config: RunnableConfig) -> State:
        answer = await model.ainvoke(str(prompt.format(**state)), config)
        return {"topic": str(answer.content)}

    def node(state: State, config: RunnableConfig) -> State:
        return {"topic": str(model.invoke(str(prompt.format(**state)), config).content)}

    graph = StateGraph(State)
    graph.add_node("ask", RunnableLambda(node, anode), metadata={KEY: prompt.uri})
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile()


FROM = [
    from_a_template, from_a_text_template, from_a_template_with_config, from_a_chain_with_config,
    from_a_model, from_a_node,
]  # fmt: skip

Make = Callable[[PromptVersion, AzureChatOpenAI], Runnable[Any, Any]]


@pytest.mark.parametrize("make", FROM, ids=lambda make: make.__name__)
async def test_a_search_by_prompt_finds_the_traces_of_runs_that_name_the_prompt_in_metadata(
    uri: str, tracer: MlflowTracer, prompt: PromptVersion, model: AzureChatOpenAI, make: Make
) -> None:
    config: RunnableConfig = {"callbacks": [tracer]}
    chain = make(prompt, model)
    traces = []
    await asyncio.to_thread(chain.invoke, {"topic": "bears"}, config)
    traces.append(tracer.last_trace_id)
    await chain.ainvoke({"topic": "bears"}, config)
    traces.append(tracer.last_trace_id)
    async for _ in chain.astream({"topic": "bears"}, config):
        pass
    traces.append(tracer.last_trace_id)
    await asyncio.to_thread((ChatPromptTemplate.from_template("No registry.") | model).invoke, {}, config)
    found = await asyncio.to_thread(used, uri, tracer, prompt)
    assert sorted(found) == sorted(str(one) for one in traces)


def test_each_item_of_a_batch_is_linked_to_its_prompt(
    uri: str, tracer: MlflowTracer, prompt: PromptVersion, model: AzureChatOpenAI
) -> None:
    from_a_template(prompt, model).batch([{"topic": str(one)} for one in range(4)], {"callbacks": [tracer]})
    assert len(used(uri, tracer, prompt)) == 4


def test_each_of_several_prompts_is_linked_to_a_trace_once(
    uri: str, tracer: MlflowTracer, prompt: PromptVersion, model: AzureChatOpenAI
) -> None:
    mlflow.genai.register_prompt(name=prompt.name, template="Say something of {{topic}}.")
    told: RunnableConfig = {
        "callbacks": [tracer],
        "metadata": {KEY: [prompt.uri, f"prompts:/{prompt.name}/2"], "team": "search"},
    }

    def load(topic: object) -> object:
        mlflow.genai.load_prompt(prompt.uri)  # which says of itself that it is used
        return topic

    (RunnableLambda(load) | from_a_template(prompt, model)).invoke({"topic": "bears"}, told)
    stored = stored_trace(uri, tracer)
    assert stored.info.tags["mlflow.linkedPrompts"] == (
        f'[{{"name": "{prompt.name}", "version": "1"}}, {{"name": "{prompt.name}", "version": "2"}}]'
    )
    assert KEY not in stored.info.trace_metadata
    assert stored.info.trace_metadata["team"] == "search"
    assert found_by(uri, f"prompt = '{prompt.name}/2'") == [tracer.last_trace_id]
    assert used(uri, tracer, prompt) == [tracer.last_trace_id]


def test_a_span_has_only_the_prompt_links_that_its_parent_does_not_have(
    uri: str, tracer: MlflowTracer, prompt: PromptVersion, model: AzureChatOpenAI
) -> None:
    chain = from_a_template(prompt, model) | StrOutputParser()
    chain.invoke({"topic": "bears"}, {"callbacks": [tracer], "metadata": {KEY: prompt.uri}})
    stored = stored_trace(uri, tracer)
    said = [span.name for span in stored.data.spans if "mlflow.linkedPrompts" in span.attributes]
    assert said == ["RunnableSequence"]


def test_the_trace_of_a_killed_process_is_linked_to_its_prompt_by_the_next_process(
    uri: str, make_tracer: MakeTracer, prompt: PromptVersion, model: AzureChatOpenAI
) -> None:
    first = make_tracer(uri, forwarder="none")
    from_a_template(prompt, model).invoke({"topic": "bears"}, {"callbacks": [first]})
    first.close(timeout=1)
    RunnableLambda(str).invoke(1, {"callbacks": [second := make_tracer(uri)]})
    assert second.flush(timeout=60)
    assert used(uri, second, prompt) == [first.last_trace_id]


@pytest.mark.parametrize("is_protected", [False, True])
def test_a_prompt_is_linked_to_a_trace_that_started_in_mlflow(
    uri: str, tracer: MlflowTracer, prompt: PromptVersion, model: AzureChatOpenAI, *, is_protected: bool
) -> None:
    if is_protected:
        protect_mlflow_tracing(tracer)
    with mlflow.start_span("outer") as outer:
        from_a_template(prompt, model).invoke({"topic": "bears"}, {"callbacks": [tracer]})
    # MLflow's own exporter links in a thread that nobody can wait for.
    wait_for(lambda: used(uri, tracer, prompt) == [outer.trace_id])
    assert prompt.name in stored_trace(uri, tracer).info.tags["mlflow.linkedPrompts"]


def test_a_chain_inside_a_span_inside_a_chain_is_linked_to_its_prompt(
    uri: str, tracer: MlflowTracer, prompt: PromptVersion, model: AzureChatOpenAI
) -> None:
    def work(topic: str) -> None:
        with mlflow.start_span("inside"):
            own: RunnableConfig = {"callbacks": [tracer]}
            contextvars.copy_context().run(from_a_template(prompt, model).invoke, {"topic": topic}, own)

    RunnableLambda(work).invoke("bears", {"callbacks": [tracer]})
    assert used(uri, tracer, prompt) == [tracer.last_trace_id]


def test_a_service_that_joins_a_trace_links_its_prompt(
    uri: str, tracer: MlflowTracer, prompt: PromptVersion, model: AzureChatOpenAI
) -> None:
    def service(headers: dict[str, str]) -> None:
        with join_trace(headers):
            from_a_template(prompt, model).invoke({"topic": "bears"}, {"callbacks": [tracer]})

    def call(_: object) -> None:
        called = threading.Thread(target=contextvars.Context().run, args=(service, tracer.tracing_headers()))
        called.start()
        called.join()

    RunnableLambda(call).with_config(run_name="call").invoke(1, {"callbacks": [tracer]})
    assert used(uri, tracer, prompt) == [tracer.last_trace_id]


class Hostile:
    """Raises when it is asked for its address."""

    @property
    def uri(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "told", ["prompts:/greeting@latest", "greeting", "prompts:/a/b/1", "", None, 7, [None], {}, Hostile()]
)
def test_a_prompt_without_a_version_is_logged_and_not_linked(
    store_uri: str, make_tracer: MakeTracer, caplog: pytest.LogCaptureFixture, told: object
) -> None:
    tracer = make_tracer(store_uri)
    with caplog.at_level(logging.WARNING, "langchain_mlflow_tracer"):
        for number in range(2):
            chain = RunnableLambda(lambda one: one).with_config(metadata={KEY: told})
            assert chain.invoke(number, {"callbacks": [tracer]}) == number
    assert "mlflow.linkedPrompts" not in stored_trace(store_uri, tracer).info.tags
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        (
            "a prompt is not linked: mlflow_prompt must be an address with a version,"
            " as prompts:/name/1 (prompt.uri)"
        )
    ]


def test_a_prompt_version_that_does_not_exist_delays_no_trace(uri: str, tracer: MlflowTracer) -> None:
    told: RunnableConfig = {"callbacks": [tracer], "metadata": {KEY: "prompts:/nobody-made-it/3"}}
    RunnableLambda(str).invoke(1, told)
    assert stored_trace(uri, tracer).info.state.value == "OK"


# Models and runs.


def test_the_page_of_a_logged_model_lists_its_traces(uri: str, tracer: MlflowTracer) -> None:
    mlflow.set_experiment(experiment_id="0")
    model = mlflow.set_active_model(name="agent")
    RunnableLambda(lambda one: one).invoke(1, {"callbacks": [tracer]})
    mlflow.clear_active_model()
    assert tracer.flush(timeout=60)
    found = MlflowClient(uri).search_traces(locations=["0"], model_id=model.model_id)
    assert [trace.info.trace_id for trace in found] == [tracer.last_trace_id]


async def test_the_page_of_a_run_lists_its_traces(
    uri: str, tracer: MlflowTracer, emulator: AzureEmulator, prompt: PromptVersion
) -> None:
    mlflow.set_experiment(experiment_id="0")
    traces = []
    with mlflow.start_run() as run:
        chain = from_a_template(prompt, AzureChatOpenAI(**emulator.chat()))
        for topic in ("bears", "bees"):
            await chain.ainvoke({"topic": topic}, {"callbacks": [tracer]})
            traces.append(tracer.last_trace_id)
    RunnableLambda(str).invoke(1, {"callbacks": [tracer]})
    found = await asyncio.to_thread(used, uri, tracer, prompt)
    client = MlflowClient(uri)
    listed = await asyncio.to_thread(client.search_traces, locations=["0"], run_id=run.info.run_id)
    assert {trace.info.trace_id for trace in listed} == set(traces) == set(found)
