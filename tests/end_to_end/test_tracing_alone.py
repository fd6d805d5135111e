"""Runs applications and commands where mlflow-tracing alone is installed: servers will do, databases not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer.settings.installed_mlflow import INSTALL
from tests.support.alone import Alone, lay
from tests.support.faults import older
from tests.support.operating import fill
from tests.support.pictures import as_data_uri, picture
from tests.support.stored import Client, Shape, experiment_id, named, root, shape

BEGIN = """
import json, sys
from langchain_mlflow_tracer import MlflowTracer
told = json.loads(sys.argv[1])
settings = {"spool_dir": "spool", **told.get("settings", {})}
"""


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    return lay(tmp_path_factory.mktemp("alone"))


def test_the_environment_has_mlflow_tracing_without_mlflow(alone: Alone, tmp_path: Path) -> None:
    code = """
from importlib.util import find_spec
from mlflow.version import IS_TRACING_SDK_ONLY
print(IS_TRACING_SDK_ONLY, find_spec("sqlalchemy"), find_spec("alembic"))
"""
    assert alone.output(code, cwd=tmp_path) == "True None None"


class TestADatabase:
    REFUSED = """
import sys
from langchain_mlflow_tracer import ConfigurationError, MlflowTracer
try:
    MlflowTracer(*sys.argv[1:], spool_dir="spool")
except ConfigurationError as error:
    print("mlflow" in sys.modules, error)
"""

    @pytest.mark.parametrize(
        ("arguments", "environ"),
        [
            ((), {}),
            (("sqlite:////tmp/mlflow.db",), {}),
            ((), {"MLFLOW_TRACKING_URI": "sqlite:////tmp/mlflow.db"}),
            ((), {"LANGCHAIN_MLFLOW_TRACER_TRACKING_URI": "sqlite:////tmp/mlflow.db"}),
        ],
    )
    def test_a_tracer_for_a_database_is_refused_by_mlflow_tracing_alone_without_importing_mlflow(
        self, arguments: tuple[str, ...], environ: dict[str, str], alone: Alone, tmp_path: Path
    ) -> None:
        said = alone.output(self.REFUSED, *arguments, cwd=tmp_path, **environ)
        assert said.startswith("False tracking_uri='sqlite:////")
        assert INSTALL in said

    def test_a_database_set_later_in_mlflow_is_not_used_by_mlflow_tracing_alone(
        self, alone: Alone, tmp_path: Path
    ) -> None:
        code = """
import mlflow
from langchain_core.runnables import RunnableLambda
from langchain_mlflow_tracer import MlflowTracer
mlflow.set_tracking_uri("http://127.0.0.1:9")
tracer = MlflowTracer(spool_dir="spool", exit_timeout=0)
mlflow.set_tracking_uri("sqlite:////tmp/mlflow.db")
RunnableLambda(lambda one: one).invoke(1, {"callbacks": [tracer]})
print(tracer.stats()["recorded"])
"""
        done = alone.run("-c", code, cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
        assert INSTALL in done.stderr

    def test_mlflow_tracing_alone_accepts_a_database_where_another_process_sends(
        self, alone: Alone, tmp_path: Path
    ) -> None:
        code = (
            "from langchain_mlflow_tracer import MlflowTracer; MlflowTracer(forwarder='none', spool_dir='s')"
        )
        alone.output(code, cwd=tmp_path)

    def test_a_database_with_mlflow_tracing_alone_does_not_break_an_application_traced_by_a_variable(
        self, alone: Alone, tmp_path: Path
    ) -> None:
        code = """
import langchain_mlflow_tracer
from langchain_core.runnables import RunnableLambda
print(RunnableLambda(lambda one: one).invoke(1))
"""
        done = alone.run("-c", code, cwd=tmp_path, LANGCHAIN_MLFLOW_TRACER="true")
        assert done.stdout == "1\n"
        assert INSTALL in done.stderr

    def test_forward_with_mlflow_tracing_alone_reports_that_traces_wait_for_a_database(
        self, alone: Alone, tmp_path: Path
    ) -> None:
        fill(tmp_path / "spool", f"sqlite:///{tmp_path}/mlflow.db", 1)
        asked = ("forward", "--spool-dir", tmp_path / "spool", "--timeout", "1")
        done = alone.run("-m", "langchain_mlflow_tracer", *asked, cwd=tmp_path)
        assert done.returncode == 1
        assert INSTALL in done.stderr
        assert INSTALL in done.stdout  # the last error

    def test_doctor_with_mlflow_tracing_alone_reports_that_it_cannot_open_a_database(
        self, alone: Alone, tmp_path: Path
    ) -> None:
        for asked in ((), ("--tracking-uri", "sqlite:////tmp/mlflow.db")):
            command = ("doctor", "--json", "--spool-dir", tmp_path / "spool", *asked)
            done = alone.run("-m", "langchain_mlflow_tracer", *command, cwd=tmp_path)
            assert done.returncode == 1, done.stderr
            (failed,) = [one for one in json.loads(done.stdout)["checks"] if one["outcome"] == "failed"]
            assert INSTALL in failed["advice"]


class TestAServer:
    CHAIN = f"""{BEGIN}
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import AzureChatOpenAI
tracer = MlflowTracer(told["uri"], told["experiment"], **settings)
content = [{{"type": "text", "text": "What is it?"}}]
if told.get("picture"):
    content.append({{"type": "image_url", "image_url": {{"url": told["picture"]}}}})
chain = ChatPromptTemplate.from_messages([HumanMessage(content)]) | AzureChatOpenAI(**told["model"])
chain.with_config(run_name="ask").invoke({{}}, {{"callbacks": [tracer]}})
assert tracer.flush(60), tracer.stats()
print("sqlalchemy" in sys.modules, tracer.last_trace_id)
"""

    @pytest.fixture
    def reading(self, server: str, monkeypatch: pytest.MonkeyPatch) -> str:
        """Return a server from which the tests' MLflow reads artifacts: it asks no client for that."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        return server

    # The version decides about the way in: OTLP, or StartTraceV3.
    @pytest.mark.parametrize(
        "kind", [("process", "3.17.0"), ("thread", "3.17.0"), ("process", "3.14.0"), ("thread", "3.14.0")]
    )
    def test_a_server_gets_chains_with_pictures_from_mlflow_tracing_alone(
        self, kind: tuple[str, str], alone: Alone, emulator: AzureEmulator, reading: str, tmp_path: Path
    ) -> None:
        (forwarder, version), server = kind, reading
        experiment = f"alone {forwarder} {version}"
        Client(server).create_experiment(experiment, f"mlflow-artifacts:/{experiment}")
        told = {
            "experiment": experiment, "model": emulator.chat(), "settings": {"forwarder": forwarder},
            "picture": as_data_uri(picture()),
        }  # fmt: skip
        with older(server, version) as address:
            said = alone.output(self.CHAIN, json.dumps({**told, "uri": address}), cwd=tmp_path)
        trace = Client(server).get_trace(said.split()[-1])
        assert shape(trace)[0] == "ask"
        assert trace.info.experiment_id == experiment_id(server, experiment)
        assert "mlflow-attachment://" in json.dumps(named(trace, "AzureChatOpenAI").inputs)

    BRIDGE = f"""{BEGIN}
import mlflow
from langchain_core.runnables import RunnableLambda
from langchain_mlflow_tracer import protect_mlflow_tracing
mlflow.set_tracking_uri(told["uri"])
mlflow.set_experiment(told["experiment"])
tracer = MlflowTracer(**settings)

@mlflow.trace
def inside(number):
    mlflow.update_current_trace(tags={{"color": "red"}})
    return number + 1

chain = RunnableLambda(inside).with_config(run_name="chain")
chain.invoke(1, {{"callbacks": [tracer]}})
ids = [tracer.last_trace_id]
with mlflow.start_span("around") as span:
    chain.invoke(1, {{"callbacks": [tracer]}})
ids.append(span.trace_id)
mlflow.flush_trace_async_logging()
protect_mlflow_tracing(tracer)
inside(1)
ids.append(mlflow.get_last_active_trace_id())
assert tracer.flush(60), tracer.stats()
assert not tracer.stats()["problems"], tracer.stats()
print(json.dumps(ids))
"""

    def test_a_server_gets_mlflow_spans_and_chains_in_one_trace_from_mlflow_tracing_alone(
        self, alone: Alone, server: str, tmp_path: Path
    ) -> None:
        told = json.dumps({"uri": server, "experiment": "alone, joined"})
        ids = json.loads(alone.output(self.BRIDGE, told, cwd=tmp_path))
        chain: Shape = ("chain", "CHAIN", [("inside", "UNKNOWN", [])])
        traces = [Client(server).get_trace(one) for one in ids]
        assert [shape(one) for one in traces] == [chain, ("around", "UNKNOWN", [chain]), chain[2][0]]
        assert [one.info.tags["color"] for one in traces] == ["red"] * 3

    def test_a_server_gets_a_chain_inside_a_span_that_mlflow_tracing_does_not_start_without_an_experiment(
        self, alone: Alone, server: str, tmp_path: Path
    ) -> None:
        code = f"""{BEGIN}
import mlflow
from langchain_core.runnables import RunnableLambda
mlflow.set_tracking_uri(told["uri"])
tracer = MlflowTracer(**settings)
with mlflow.start_span("around"):
    RunnableLambda(lambda one: one).with_config(run_name="chain").invoke(1, {{"callbacks": [tracer]}})
assert tracer.flush(60), tracer.stats()
print(tracer.last_trace_id)
"""
        found = Client(server).get_trace(alone.output(code, json.dumps({"uri": server}), cwd=tmp_path))
        assert shape(found) == ("chain", "CHAIN", [])

    def test_mlflow_tracing_sends_to_an_experiment_of_the_environment_only_when_it_is_protected(
        self, alone: Alone, server: str, tmp_path: Path
    ) -> None:
        code = f"""{BEGIN}
import mlflow
from langchain_mlflow_tracer import protect_mlflow_tracing
mlflow.set_tracking_uri(told["uri"])
with mlflow.start_span("before"):
    pass
tracer = protect_mlflow_tracing(MlflowTracer(**settings))
with mlflow.start_span("after"):
    pass
assert tracer.flush(60), tracer.stats()
"""
        name = "alone, by a variable"
        alone.output(code, json.dumps({"uri": server}), cwd=tmp_path, MLFLOW_EXPERIMENT_NAME=name)
        found = Client(server).search_traces(locations=[experiment_id(server, name)])
        assert [root(one).name for one in found] == ["after"]

    def test_forward_with_mlflow_tracing_alone_sends_pending_traces_to_a_server(
        self, alone: Alone, server: str, tmp_path: Path
    ) -> None:
        fill(tmp_path / "spool", server, 3, "alone, by hand", first=30_000)
        asked = ("forward", "--json", "--spool-dir", tmp_path / "spool")
        done = alone.run("-m", "langchain_mlflow_tracer", *asked, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["delivered"] == 3
        found = Client(server).search_traces(locations=[experiment_id(server, "alone, by hand")])
        assert [root(one).name for one in found] == ["chain"] * 3

    def test_doctor_with_mlflow_tracing_alone_checks_a_server(
        self, alone: Alone, server: str, tmp_path: Path
    ) -> None:
        asked = ("doctor", "--json", "--spool-dir", tmp_path / "spool", "--tracking-uri", server)
        done = alone.run("-m", "langchain_mlflow_tracer", *asked, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
        found = {one["check"]: one["found"] for one in json.loads(done.stdout)["checks"]}
        assert found["client"].startswith("mlflow-tracing ")
        assert "credentials" in found
