"""Runs the code of every page in docs/mlflow against a real store, as it stands, and reads what is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from azure_emulator import AzureEmulator
from tests.support.alone import lay
from tests.support.server import running_server
from tests.support.stored import Shape, shape
from tests.support.warm import Warm, warm

PROJECT = Path(__file__).resolve().parents[2]
INDEX = PROJECT / "docs" / "mlflow.md"
PAGES = PROJECT / "docs" / "mlflow"

OWL_CALLS: list[Shape] = [("ChatPromptTemplate", "CHAIN", []), ("AzureChatOpenAI", "CHAT_MODEL", [])]
CAPITAL: Shape = ("RunnableLambda", "CHAIN", [])
CAPITAL_ASKED: Shape = ("capital", "CHAIN", [])

STORED: dict[str, tuple[str, list[Shape]]] = {
    "spans-inside-a-chain": (
        "",
        [
            (
                "answer",
                "CHAIN",
                [
                    ("search", "CHAIN", [("look_up", "RETRIEVER", [])]),
                    ("best", "CHAIN", [("rank", "UNKNOWN", [])]),
                ],
            )
        ],
    ),
    "chain-inside-a-trace": ("", [("handle", "UNKNOWN", [("shout", "CHAIN", [])] * 2)]),
    "facts-of-the-trace": ("birds 7", [("answer", "CHAIN", [])]),
    "feedback": ("", [CAPITAL]),
    "settings": ("1", [("upper", "CHAIN", [])]),
    "autolog": ("1", [("ours", "CHAIN", [])]),
    "server-down": ("True", [("handle", "UNKNOWN", [])]),
    "distributed": ("", [("trip", "CHAIN", [("forecast", "CHAIN", [])])]),
    "threads": ("", [("search", "CHAIN", [("look_up", "UNKNOWN", [])] * 2)]),
    "prompts": ("True", [("RunnableSequence", "CHAIN", OWL_CALLS)]),
    "models-and-runs": ("1\n2", [("upper", "CHAIN", [])] * 2),
    "evaluation": ("0.5", [CAPITAL_ASKED] * 3 + [("predict", "UNKNOWN", [CAPITAL])] * 2),
    "mlflow-tracing-alone": ("1", [("handle", "UNKNOWN", [("shout", "CHAIN", [])])]),
    "older-versions": ("interrupted True", [("LangGraph", "CHAIN", [("approve", "CHAIN", [])])]),
    "when-mlflow-changes": ("{}", [("around", "UNKNOWN", [("upper", "CHAIN", [])])]),
}
"""What the code of each page prints, last, and the traces that are in the store afterwards."""


def code(page: Path) -> str:
    """Return the code of a page: its blocks, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE))


def stored(uri: str) -> list[Shape]:
    client = MlflowClient(uri)
    places = [one.experiment_id for one in client.search_experiments()]
    return sorted(shape(trace) for trace in client.search_traces(locations=places))


@pytest.fixture(scope="module")
def warm_process() -> Iterator[Warm]:
    with warm() as process:
        yield process


@pytest.mark.parametrize("page", STORED)
def test_the_code_of_a_page_runs_and_leaves_the_traces_that_the_page_shows(
    page: str, store_uri: str, emulator: AzureEmulator, tmp_path: Path, warm_process: Warm
) -> None:
    service = emulator.connection
    environ = {
        "MLFLOW_TRACKING_URI": store_uri,
        "LANGCHAIN_MLFLOW_TRACER_FORWARDER": "thread",  # another process would import mlflow once more
        "AZURE_OPENAI_ENDPOINT": service.endpoint,
        "AZURE_OPENAI_API_KEY": service.api_key,
        "OPENAI_API_VERSION": service.api_version,
    }
    script = tmp_path / "page.py"
    script.write_text(code(PAGES / f"{page}.md"), "utf-8")
    ended = warm_process.run(script, tmp_path, environ)
    assert ended.returncode == 0, ended.stderr
    printed, traces = STORED[page]
    assert ended.stdout.rstrip().endswith(printed), ended.stdout
    assert stored(store_uri) == traces


def test_the_page_about_mlflow_tracing_alone_runs_with_mlflow_tracing_alone(
    empty_store: Path, tmp_path: Path
) -> None:
    page = "mlflow-tracing-alone"
    printed, traces = STORED[page]
    with running_server(tmp_path, empty_store) as address:
        told = {"MLFLOW_TRACKING_URI": address, "LANGCHAIN_MLFLOW_TRACER_FORWARDER": "thread"}
        output = lay(tmp_path / "alone").output(code(PAGES / f"{page}.md"), cwd=tmp_path, **told)
        assert output.endswith(printed)
        assert stored(address) == traces


def test_every_page_has_code_and_its_title_is_in_the_index() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(STORED)
    index = INDEX.read_text("utf-8")
    for page in PAGES.glob("*.md"):
        title, *_ = page.read_text("utf-8").splitlines()
        assert f"[{title.removeprefix('# ')}](mlflow/{page.name})" in index
        assert code(page)
        assert "**In MLflow's UI:**" in page.read_text("utf-8")
