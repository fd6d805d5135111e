"""Looks at traces in MLflow's UI as a person does: what stands on the page, in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from langchain_core.messages import AIMessage
from mlflow.tracking import MlflowClient

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer
from tests.support.browser import Pages, colour, missing, must_be_there, reads, running_browser
from tests.support.shown import Shown, assistant, forms, make
from tests.support.stored import experiment_id
from tests.support.warm import warm

if TYPE_CHECKING:  # it may be missing
    from playwright.sync_api import Locator, Page

if (lacking := missing()) and not must_be_there():
    pytest.skip(lacking, allow_module_level=True)

pytestmark = pytest.mark.timeout(400)  # the first waits for a server and three samples

Traces = Mapping[str, Shown]
"""By their names."""

PROJECT = Path(__file__).resolve().parents[2]
ARTIFACTS = PROJECT / "artifacts"
"""Where each test leaves a picture of what it saw last."""

QUESTION = "What is the weather in Paris?"
ANSWER = "Here is what I found: Paris: rain, 11 °C."
NEXT_QUESTION = "And what is the capital of France?"
NEXT_ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="module")
def made(emulator: AzureEmulator, server: str, tmp_path_factory: pytest.TempPathFactory) -> Traces:
    """Make every trace that is looked at."""
    spool = tmp_path_factory.mktemp("spool")
    with (
        MlflowTracer(server, "assistant", spool_dir=spool) as first,
        MlflowTracer(server, "forms", spool_dir=spool) as second,
    ):
        return make(first, assistant(emulator)) | make(second, forms(emulator))


@pytest.fixture(scope="module")
def samples(server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run the samples that use MLflow's own API; return the address of their experiment's pages."""
    # MLflow itself leaves variables behind that name an experiment, where a test before has told it of one.
    around = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_EXPERIMENT")}
    environ = around | {
        "MLFLOW_TRACKING_URI": server,
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
    }
    with warm() as process:
        for name in ("mixed_spans", "prompt_registry", "evaluate"):
            script = PROJECT / "samples" / f"{name}.py"
            ended = process.run(script, tmp_path_factory.mktemp(name), environ)
            assert ended.returncode == 0, ended.stderr
    return f"{server}/#/experiments/{experiment_id(server, 'samples')}"


@pytest.fixture(scope="module")
def browser(made: Traces, samples: str) -> Iterator[Page]:  # noqa: ARG001 - no run may be beside a browser
    """Run one browser, once all traces are made."""
    with running_browser() as tab:
        yield tab


@pytest.fixture
def tab(browser: Page, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Show a page that no other test has touched, and keep a picture of what this one saw last."""
    browser.goto("about:blank")
    yield browser
    ARTIFACTS.mkdir(exist_ok=True)
    browser.screenshot(path=ARTIFACTS / f"{request.node.name}.png")


@pytest.fixture
def pages(tab: Page, server: str) -> Pages:
    """Return the pages of an assistant's experiment."""
    return Pages(tab, f"{server}/#/experiments/{experiment_id(server, 'assistant')}")


@pytest.fixture
def pages_of_forms(tab: Page, server: str) -> Pages:
    """Return the pages of the experiment with the many forms of a message."""
    return Pages(tab, f"{server}/#/experiments/{experiment_id(server, 'forms')}")


class TestTheListOfTraces:
    def test_the_list_of_traces_shows_question_answer_session_and_state(self, pages: Pages) -> None:
        reads(_row(pages.traces(), QUESTION), QUESTION, ANSWER, "trip 17", "OK")

    def test_the_list_of_traces_shows_tokens_and_cost(self, pages: Pages, made: Traces) -> None:
        table = pages.traces()
        _switch_columns(pages.tab, "Cost", "Time", "Duration")
        table.get_by_role("columnheader", name="Cost").wait_for()
        answers = [one for one in made["weather"].result["messages"] if isinstance(one, AIMessage)]
        used = [one.usage_metadata for one in answers if one.usage_metadata]
        sent, received = (sum(one[key] for one in used) for key in ("input_tokens", "output_tokens"))
        assert _number(_cell(table, QUESTION, "Tokens")) == sent + received
        # MLflow's price of gpt-4o, in dollars for a million tokens; 3.18 rounds what it shows.
        assert _number(_cell(table, QUESTION, "Cost")) == pytest.approx(
            (2.5 * sent + 10 * received) / 1_000_000, abs=5e-5
        )

    def test_the_list_of_traces_shows_a_failed_trace_as_an_error(self, pages: Pages) -> None:
        reads(_row(pages.traces(), "When are the tides in Lima?"), "Error")

    def test_the_list_of_traces_can_be_searched_in_japanese(self, pages_of_forms: Pages) -> None:
        table = pages_of_forms.traces()
        reads(table, "Oslo")
        pages_of_forms.search("天気")
        table.get_by_text("Oslo").first.wait_for(state="hidden")
        reads(table, "東京の天気を教えてください")


class TestATrace:
    def test_the_page_of_a_trace_shows_an_agent_as_a_chat_with_its_tool_call_and_result(
        self, pages: Pages, made: Traces
    ) -> None:
        trace = pages.trace(made["weather"].trace_id, "weather")
        called = ("Assistant", "Tool calls", "get_weather", "city", "Paris")
        returned = ("get_weather", "Paris: rain, 11 °C")
        reads(trace.said, "Inputs", "User", QUESTION, "Outputs", *called, *returned, "Assistant", ANSWER)

    def test_the_page_of_a_trace_shows_arguments_and_result_of_a_tool(
        self, pages: Pages, made: Traces
    ) -> None:
        said = pages.trace(made["weather"].trace_id, "weather").open("get_weather")
        reads(said, "Inputs", "city", "Paris", "Outputs", "Paris: rain, 11 °C")

    def test_the_page_of_a_trace_shows_answer_finish_reason_and_filter_verdicts_of_a_model(
        self, pages: Pages, made: Traces
    ) -> None:
        trace = pages.trace(made["library"].trace_id, "library")
        said = trace.open("AzureChatOpenAI")
        reads(said, "User", "How often may books be renewed?")
        reads(said, "Assistant", "Books are lent for four weeks and may be renewed twice.")
        # MLflow's chat shows neither; the same outputs as YAML do.
        said.get_by_role("button", name="Pretty").last.click()
        pages.tab.get_by_role("menuitemradio", name="YAML").click()
        reads(said, "Outputs", "finish_reason: stop", "content_filter_results", "hate", "filtered: false")
        reads(said, "protected_material_text", "prompt_filter_results", "jailbreak", "filtered: false")

    def test_the_page_of_a_trace_shows_the_documents_of_a_retriever_with_source_and_score(
        self, pages: Pages, made: Traces
    ) -> None:
        said = pages.trace(made["library"].trace_id, "library").open("Library")
        reads(said, "How often may books be renewed?", "renewed twice.", "lending.md", "opens at", "hours.md")
        said.get_by_text("renewed twice.").click()
        reads(said, "renewed twice.", "source", "lending.md", "score", "0.", "See less", "opens at")

    def test_the_page_of_a_trace_shows_why_a_span_failed(self, pages: Pages, made: Traces) -> None:
        trace = pages.trace(made["failing"].trace_id, "failing")
        assert _is_red(trace.span("get_tides"))
        assert not _is_red(trace.span("AzureChatOpenAI"))
        said = trace.open("get_tides", "Events")
        reads(said, "ConnectionError", "the tide tables of Lima cannot be reached", "Traceback")

    def test_the_page_of_a_trace_shows_the_whole_answer_of_a_stream(self, pages: Pages, made: Traces) -> None:
        trace = pages.trace(made["streamed"].trace_id, "streamed")
        whole = ("A whole book could be written about the sea", "the trace keeps them all.")
        reads(trace.said, *whole)
        reads(trace.open("AzureChatOpenAI"), "User", "Tell me about the sea.", "Assistant", *whole)

    def test_the_page_of_a_trace_shows_the_picture_in_a_message(self, pages: Pages, made: Traces) -> None:
        trace = pages.trace(made["picture"].trace_id, "picture")
        reads(trace.said, "User", "What is in this picture?", "Assistant")
        drawn = trace.said.locator("img").first
        drawn.wait_for()
        assert drawn.evaluate("picture => picture.naturalWidth") == 1

    @pytest.mark.parametrize("form", ["message", "pair", "dict"])
    def test_the_page_of_a_trace_shows_a_graph_as_a_chat_for_every_form_of_message(
        self, pages_of_forms: Pages, made: Traces, form: str
    ) -> None:
        said = pages_of_forms.trace(made[form].trace_id, form).said
        asked = ("Inputs", "User", "What is the capital of Norway?")
        reads(said, *asked, "Outputs", "Assistant", "The capital of Norway is Oslo.")


class TestASession:
    def test_a_session_is_one_row_where_traces_are_grouped(self, pages: Pages) -> None:
        table = pages.traces(by_session=True)
        reads(_row(table, "trip 17"), "trip 17", QUESTION, NEXT_ANSWER)

    def test_the_page_of_a_session_shows_questions_and_answers(self, pages: Pages) -> None:
        session = pages.session("trip 17")
        reads(session, "Turn 1", "User", QUESTION, "Assistant", ANSWER)
        reads(session, ANSWER, "Turn 2", "User", NEXT_QUESTION, "Assistant", NEXT_ANSWER)


class TestMlflowsOwnApi:
    def test_the_page_of_a_trace_shows_spans_of_mlflow_below_a_chain(
        self, tab: Page, samples: str, server: str
    ) -> None:
        trace = Pages(tab, samples).trace(*_sample(server, "chain around a span"))
        reads(trace.panel, "chain around a span", "search", "look_up", "RunnableLambda")
        reads(trace.open("look_up"), "question", "capitals", "a page about capitals")

    def test_the_page_of_a_trace_shows_a_chain_below_a_span_of_mlflow(
        self, tab: Page, samples: str, server: str
    ) -> None:
        trace = Pages(tab, samples).trace(*_sample(server, "span around a chain"))
        reads(trace.panel, "span around a chain", "RunnableSequence", "search", "look_up", "rivers")

    def test_the_page_of_a_prompt_lists_the_traces_that_used_it(self, tab: Page, samples: str) -> None:
        tab.goto(f"{samples}/prompts/capital?promptVersion=1")
        tab.get_by_text("Viewing version 1").wait_for()  # until then, there is only the sidebar's
        tab.get_by_text("Traces", exact=True).last.click()
        for country, capital in (("Japan", "Tokyo"), ("France", "Paris")):
            reads(_row(tab.locator("body"), country), f"The capital of {country} is {capital}.")

    def test_the_page_of_a_trace_links_to_its_prompt(self, tab: Page, samples: str, server: str) -> None:
        said = Pages(tab, samples).trace(*_sample(server, "capital")).panel
        said.get_by_role("button", name="1 linked prompt").click()
        reads(tab.locator("body"), "capital", "1")

    def test_the_page_of_an_evaluation_lists_its_rows_with_their_assessments(
        self, tab: Page, samples: str, server: str
    ) -> None:
        run, *_ = MlflowClient(server).search_runs([experiment_id(server, "samples")])
        tab.goto(f"{samples}/evaluation-runs")
        tab.get_by_text(str(run.info.run_name)).first.click()
        reads(tab.locator("body"), "is_known", "75%")
        reads(_row(tab.locator("body"), "Peru"), "The capital of Peru is Lima.", "True")


def _sample(server: str, name: str) -> tuple[str, str]:
    """Return a trace that a sample made, the first of that name, and its name."""
    found = MlflowClient(server).search_traces(
        locations=[experiment_id(server, "samples")],
        filter_string=f"trace.name = '{name}'",
        order_by=["timestamp_ms ASC"],
    )
    return found[0].info.trace_id, name


def _row(table: Locator, text: str) -> Locator:
    return table.get_by_role("row").filter(has_text=text)


def _cell(table: Locator, text: str, column: str) -> Locator:
    _row(table, text).wait_for()
    columns = [one.strip() for one in table.get_by_role("columnheader").all_inner_texts()]
    return _row(table, text).get_by_role("cell").nth(columns.index(column))


def _number(cell: Locator) -> float:
    found = re.search(r"[\d.]+", cell.inner_text())
    assert found, cell.inner_text()
    return float(found[0])


def _switch_columns(tab: Page, *names: str) -> None:
    tab.get_by_role("button", name="Display").click()
    tab.get_by_role("menuitem", name="Columns").click()
    for name in names:
        tab.get_by_role("menuitemcheckbox", name=name, exact=True).first.click()
    for _ in ("the columns", "the menu"):
        tab.keyboard.press("Escape")


def _is_red(place: Locator) -> bool:
    red, green, blue = colour(place)
    return red > 2 * max(green, blue)
