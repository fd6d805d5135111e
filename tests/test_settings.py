"""Gives settings by argument, environment and default, rightly and wrongly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from langchain_mlflow_tracer import ConfigurationError, MlflowTracer
from langchain_mlflow_tracer.destination import Destination, checked_tracking_uri
from langchain_mlflow_tracer.settings import (
    Settings,
    child_environment,
    full_uris,
    installed_by_environment,
    load,
    spool_dir_of_environment,
)


def loaded(environ: Mapping[str, str] | None = None, **arguments: object) -> Settings:
    return load(arguments, {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"], **(environ or {})})


@pytest.mark.parametrize(
    ("argument", "value", "right"),
    [
        ("capture", "everything", "'content', 'metadata'"),
        ("durability", "eventual", "'background', 'sync'"),
        ("forwarder", "pigeon", "'auto', 'thread', 'process', 'none'"),
        ("exit_timeout", -1, "0 or more"),
        ("exit_timeout", "soon", "a number is expected"),
        ("exit_timeout", float("inf"), "0 or more"),
        ("sample_rate", 2, "from 0 (none) to 1 (all)"),
        ("sample_rate", float("nan"), "from 0 (none) to 1 (all)"),
        ("spool_max_bytes", 10, "at least 1048576 (1 MiB)"),
        ("queue_max_bytes", "many", "a number is expected"),
        ("tracking_uri", "ftp://host", "http, https, sqlite"),
        ("tracking_uri", "databricks", "http, https, sqlite"),
        ("tracking_uri", "http://", "http(s)://host[:port]"),
        ("tracking_uri", 5, "a text is expected"),
        ("tags", "not pairs", "a mapping of names to values"),
        ("metadata", 5, "a mapping of names to values"),
        ("redact", "yes please", "a function from text to text"),
        ("disabled", "maybe", "true or false"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value_and_what_would_be_right(
    argument: str, value: object, right: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MlflowTracer(**{argument: value})  # type: ignore[arg-type]
    assert (caught.value.argument, caught.value.value) == (argument, value)
    assert str(caught.value).startswith(f"{argument}={value!r} is not valid: ")
    assert right in str(caught.value)


def test_a_spool_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="spool_dir=.*a folder this process can write to"):
        MlflowTracer(spool_dir=tmp_path / "file" / "spool")


def test_a_wrong_variable_is_named_too() -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_URI='gopher://x'"):
        loaded({"MLFLOW_TRACKING_URI": "gopher://x"})
    with pytest.raises(ConfigurationError, match="sample_rate='lots'"):
        loaded({"LANGCHAIN_MLFLOW_TRACER_SAMPLE_RATE": "lots"})


def test_arguments_come_before_the_environment_and_that_before_defaults() -> None:
    environ = {
        "LANGCHAIN_MLFLOW_TRACER_EXIT_TIMEOUT": "5", "LANGCHAIN_MLFLOW_TRACER_TAGS": "team=search, tier = 1",
        "LANGCHAIN_MLFLOW_TRACER_CAPTURE": "metadata", "LANGCHAIN_MLFLOW_TRACER_REDACT": "false",
        "LANGCHAIN_MLFLOW_TRACER_TRACKING_URI": "http://ours", "MLFLOW_TRACKING_URI": "http://mlflows",
        "LANGCHAIN_MLFLOW_TRACER_SESSION_ID": "s", "LANGCHAIN_MLFLOW_TRACER_SPOOL_MAX_BYTES": "2000000",
    }  # fmt: skip
    found = loaded(environ, exit_timeout=7)
    assert (found.exit_timeout, found.capture, found.redact) == (7.0, "metadata", False)
    assert found.tags == {"team": "search", "tier": "1"}
    assert (found.destination.tracking_uri, found.pinned_uri) == ("http://ours", True)
    assert (found.session_id, found.spool_max_bytes) == ("s", 2_000_000)
    default = loaded()
    assert (default.exit_timeout, default.capture, default.redact, default.sample_rate) == (
        2.0,
        "content",
        True,
        1,
    )
    assert (default.durability, default.forwarder, default.disabled) == ("background", "auto", False)
    assert default.destination.tracking_uri == f"sqlite:///{Path.cwd()}/mlflow.db"


def test_mlflows_own_variables_are_honoured() -> None:
    found = loaded(
        {"MLFLOW_TRACKING_URI": "http://h:5000/", "MLFLOW_EXPERIMENT_NAME": "e", "MLFLOW_EXPERIMENT_ID": "7"}
    )
    assert found.destination == Destination("http://h:5000", "e", None)
    assert loaded({"MLFLOW_EXPERIMENT_ID": "7"}).destination.experiment_id == "7"
    assert loaded({"MLFLOW_TRACE_SAMPLING_RATIO": "0.25"}).sample_rate == 0.25
    assert loaded({"MLFLOW_TRACE_SAMPLING_RATIO": "0.25"}, sample_rate=0.0).sample_rate == 0.0


def test_the_default_spool_is_the_users_state_folder_or_a_temporary_one(tmp_path: Path) -> None:
    assert loaded().spool_dir == tmp_path / "state" / "langchain-mlflow-tracer"
    (tmp_path / "file").write_text("")
    fallback = loaded({"XDG_STATE_HOME": str(tmp_path / "file")}).spool_dir
    assert fallback.name.startswith("langchain-mlflow-tracer-")
    assert spool_dir_of_environment({"LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR": "/x/y"}) == Path("/x/y")


def test_where_no_folder_can_be_written_construction_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match="spool_dir=None.*give a folder"):
        loaded({"XDG_STATE_HOME": str(tmp_path / "file")})


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have no numbers on Windows")
def test_a_folder_that_belongs_to_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    if folder.stat().st_uid == 0:  # root's own folders are everybody's: give this one away
        os.chown(folder, 12_345, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        loaded(spool_dir=folder)


def test_the_kill_switch_needs_no_folder(tmp_path: Path) -> None:
    found = loaded({"LANGCHAIN_MLFLOW_TRACER_DISABLED": "true"}, spool_dir=tmp_path / "spool")
    assert found.disabled
    assert not (tmp_path / "spool").exists()


def test_the_environment_may_ask_for_a_tracer() -> None:
    assert installed_by_environment({"LANGCHAIN_MLFLOW_TRACER": "True"})
    assert not installed_by_environment({"LANGCHAIN_MLFLOW_TRACER": "0"})
    assert not installed_by_environment({})


def test_a_forwarder_process_is_told_credentials_by_its_environment_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_MODEL_CATALOG_URI")
    given = {"http://h": "http://ada:pw@h"}
    environ = child_environment(given)
    assert environ["MLFLOW_MODEL_CATALOG_URI"] == ""
    assert full_uris(environ) == given
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "file:///prices")
    assert child_environment({})["MLFLOW_MODEL_CATALOG_URI"] == "file:///prices"
    assert full_uris({"MLFLOW_TRACKING_URI": "http://ada:pw@h"}) == given


class TestDestination:
    def test_as_text_it_has_no_credentials_and_gets_them_back(self) -> None:
        full = Destination("https://ada:pw@h:1/path", "e")
        assert "pw" not in full.to_text()
        bare = Destination.from_text(full.to_text())
        assert bare == Destination("https://h:1/path", "e")
        assert bare.with_credentials({"https://h:1/path": "https://ada:pw@h:1/path"}) == full

    @pytest.mark.parametrize(
        ("uri", "checked"),
        [
            ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
            ("sqlite:///:memory:", "sqlite:///:memory:"),
            ("https://h/", "https://h"),
        ],
    )
    def test_a_uri_is_made_ready_for_use_from_any_folder(self, uri: str, checked: str) -> None:
        assert checked_tracking_uri("tracking_uri", uri) == checked

    def test_a_relative_path_is_taken_from_where_the_application_started(self, tmp_path: Path) -> None:
        assert checked_tracking_uri("u", "sqlite:///a b/m.db") == f"sqlite:///{tmp_path}/a b/m.db"
        assert Destination("sqlite:///x").is_server is False
