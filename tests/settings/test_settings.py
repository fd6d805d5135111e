"""Tests settings from arguments, environment and defaults, right and wrong ones."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

import langchain_mlflow_tracer
from langchain_mlflow_tracer import ConfigurationError, MlflowTracer
from langchain_mlflow_tracer.settings.child_process import child_environment, full_uris
from langchain_mlflow_tracer.settings.destination import Destination, checked_tracking_uri
from langchain_mlflow_tracer.settings.settings import (
    Settings,
    installed_by_environment,
    load,
    named_destination,
    spool_max_bytes_of_environment,
)
from langchain_mlflow_tracer.settings.spool_folder import spool_dir_of_environment


def loaded(environ: Mapping[str, str] | None = None, **arguments: object) -> Settings:
    return load(arguments, {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"], **(environ or {})})


@pytest.mark.parametrize(
    ("argument", "value", "right"),
    [
        ("capture", "everything", "'content', 'metadata'"),
        ("durability", "eventual", "'background', 'sync'"),
        ("forwarder", "pigeon", "'auto', 'thread', 'process', 'none'"),
        ("exit_timeout", -1, "0 or more"),
        ("exit_timeout", "soon", "expected a number"),
        ("exit_timeout", float("inf"), "0 or more"),
        ("sample_rate", 2, "from 0 (none) to 1 (all)"),
        ("sample_rate", float("nan"), "from 0 (none) to 1 (all)"),
        ("spool_max_bytes", 10, "at least 1048576 (1 MiB)"),
        ("queue_max_bytes", "many", "expected a number"),
        ("tracking_uri", "ftp://host", "http, https, sqlite"),
        ("tracking_uri", "databricks", "http, https, sqlite"),
        ("tracking_uri", "http://", "http(s)://host[:port]"),
        ("tracking_uri", 5, "expected a string"),
        ("tags", "not pairs", "a mapping of names to values"),
        ("metadata", 5, "a mapping of names to values"),
        ("redact", "yes please", "a function from string to string"),
        ("disabled", "maybe", "true or false"),
    ],
)
def test_a_configuration_error_names_the_argument_its_value_and_what_is_expected(
    argument: str, value: object, right: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MlflowTracer(**{argument: value})  # type: ignore[arg-type]
    assert (caught.value.argument, caught.value.value) == (argument, value)
    assert str(caught.value).startswith(f"{argument}={value!r} is not valid: ")
    assert right in str(caught.value)


@pytest.mark.parametrize("secret", ["?token=hunter2", "/prefix?key=hunter2", "#hunter2"])
def test_the_address_of_a_server_with_a_query_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="without a query") as caught:
        MlflowTracer(f"https://ada:hunter2@mlflow.example{secret}")
    assert "hunter2" not in f"{caught.value} {caught.value.value}"


def test_a_spool_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="spool_dir=.*a folder this process can write to"):
        MlflowTracer(spool_dir=tmp_path / "file" / "spool")


def test_a_configuration_error_names_the_mlflow_variable_that_is_wrong() -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_URI='gopher://x'"):
        loaded({"MLFLOW_TRACKING_URI": "gopher://x"})
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACE_SAMPLING_RATIO='2' .* from 0"):
        loaded({"MLFLOW_TRACE_SAMPLING_RATIO": "2"})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("TRACKING_URI", "gopher://x"), ("TAGS", "a"), ("TAGS", "a=1,=2"), ("METADATA", "a"),
        ("CAPTURE", "all"), ("SAMPLE_RATE", "lots"), ("REDACT", "maybe"), ("DURABILITY", "some"), ("FORWARDER", "me"),  # noqa: E501 - one row of a table
        ("SPOOL_DIR", "/dev/null/spool"), ("SPOOL_MAX_BYTES", "1"), ("QUEUE_MAX_BYTES", "x"),
        ("EXIT_TIMEOUT", "-1"), ("DISABLED", "perhaps"),
    ],
)  # fmt: skip
def test_each_variable_of_a_setting_is_checked_and_named_in_the_error(setting: str, value: str) -> None:
    variable = f"LANGCHAIN_MLFLOW_TRACER_{setting}"
    with pytest.raises(ConfigurationError) as caught:
        loaded({variable: value})
    assert (caught.value.argument, caught.value.value) == (variable, value)


def test_every_argument_of_the_tracer_has_an_environment_variable() -> None:
    given = {
        "TRACKING_URI": "http://h", "EXPERIMENT": "e", "SESSION_ID": "s", "USER_ID": "u", "TAGS": "a=1",
        "METADATA": "b=2", "SAMPLE_RATE": "0.5", "CAPTURE": "metadata", "HISTORY": "full", "REDACT": "off",
        "DURABILITY": "sync", "FORWARDER": "none", "SPOOL_DIR": "here", "SPOOL_MAX_BYTES": "1e7",
        "QUEUE_MAX_BYTES": "2e7", "EXIT_TIMEOUT": "0.5",
    }  # fmt: skip
    arguments = inspect.signature(MlflowTracer).parameters
    assert {name.upper() for name in arguments} == {*given, "DISABLED"}
    settings = loaded({f"LANGCHAIN_MLFLOW_TRACER_{name}": value for name, value in given.items()})
    assert settings == Settings(
        destination=Destination("http://h", "e"), pinned_uri=True, pinned_experiment=True, session_id="s",
        user_id="u", tags={"a": "1"}, metadata={"b": "2"}, sample_rate=0.5, capture="metadata",
        history="full", redact=False, durability="sync", forwarder="none", spool_dir=Path("here").absolute(),
        spool_max_bytes=10_000_000, queue_max_bytes=20_000_000, exit_timeout=0.5, disabled=False,
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["~nobody-of-this-name/spool", "/dev/null/spool", "nul\0l"])
def test_an_impossible_spool_folder_raises_no_other_error_than_a_configuration_error(folder: str) -> None:
    if folder.startswith("~"):  # the name of a folder here, as a shell takes it
        assert loaded(spool_dir=folder).spool_dir == Path.cwd() / folder
        return
    with pytest.raises(ConfigurationError, match="spool_dir"):
        loaded(spool_dir=folder)


@pytest.mark.parametrize(
    "uri",
    [
        "http://[::1", "http://host:port", "https://:5000", "http:///x", "postgresql://ada:s3cret@host/db",
        "ftp://ada:s3cret@host", "http://ada:s3cret@", "http://ada:s3cret@host:nope", "", "mlruns",
        "file:///x", "http://a\u2100b",
    ],
)  # fmt: skip
def test_the_error_about_a_wrong_tracking_uri_does_not_show_its_password(uri: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tracking_uri=uri)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value)


def test_a_relative_store_path_is_an_error_if_the_current_folder_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigurationError, match="give an absolute path"):
        loaded(spool_dir=tmp_path)


def test_the_disabled_setting_works_although_other_variables_are_wrong() -> None:
    environ = {
        "LANGCHAIN_MLFLOW_TRACER_DISABLED": "true", "MLFLOW_TRACKING_URI": "databricks",
        "LANGCHAIN_MLFLOW_TRACER_SAMPLE_RATE": "lots",
    }  # fmt: skip
    assert loaded(environ).disabled


def test_the_text_of_settings_does_not_show_a_password() -> None:
    settings = loaded(tracking_uri="https://ada:s3cret@h/x", redact=lambda text: text)
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings.destination)
    assert settings.destination.tracking_uri == "https://ada:s3cret@h/x"


def test_a_configuration_error_can_be_pickled() -> None:
    error = ConfigurationError("capture", "all", "one of them")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(copy), copy.argument, copy.value) == (str(error), "capture", "all")


def test_arguments_override_the_environment_and_the_environment_overrides_defaults() -> None:
    environ = {
        "LANGCHAIN_MLFLOW_TRACER_EXIT_TIMEOUT": "5", "LANGCHAIN_MLFLOW_TRACER_TAGS": "team=search, tier = 1",
        "LANGCHAIN_MLFLOW_TRACER_CAPTURE": "metadata", "LANGCHAIN_MLFLOW_TRACER_REDACT": "false",
        "LANGCHAIN_MLFLOW_TRACER_TRACKING_URI": "http://ours", "MLFLOW_TRACKING_URI": "http://mlflows",
        "LANGCHAIN_MLFLOW_TRACER_SESSION_ID": "s", "LANGCHAIN_MLFLOW_TRACER_SPOOL_MAX_BYTES": "2000000",
    }  # fmt: skip
    settings = loaded(environ, exit_timeout=7)
    assert (settings.exit_timeout, settings.capture, settings.redact) == (7.0, "metadata", False)
    assert settings.tags == {"team": "search", "tier": "1"}
    assert (settings.destination.tracking_uri, settings.pinned_uri) == ("http://ours", True)
    assert (settings.session_id, settings.spool_max_bytes) == ("s", 2_000_000)
    default = loaded()
    assert (default.exit_timeout, default.capture, default.redact, default.sample_rate) == (
        2.0,
        "content",
        True,
        1,
    )
    assert (default.durability, default.forwarder, default.disabled) == ("background", "auto", False)
    assert default.destination.tracking_uri == f"sqlite:///{Path.cwd()}/mlflow.db"


def test_mlflow_variables_name_the_destination_and_the_sample_rate() -> None:
    settings = loaded(
        {"MLFLOW_TRACKING_URI": "http://h:5000/", "MLFLOW_EXPERIMENT_NAME": "e", "MLFLOW_EXPERIMENT_ID": "7"}
    )
    assert settings.destination == Destination("http://h:5000", "e", None)
    assert loaded({"MLFLOW_EXPERIMENT_ID": "7"}).destination.experiment_id == "7"
    assert loaded({"MLFLOW_TRACE_SAMPLING_RATIO": "0.25"}).sample_rate == 0.25
    assert loaded({"MLFLOW_TRACE_SAMPLING_RATIO": "0.25"}, sample_rate=0.0).sample_rate == 0.0


def test_the_tracing_destination_variable_of_mlflow_overrides_its_experiment_variables() -> None:
    environ = {"MLFLOW_TRACING_DESTINATION": "9", "MLFLOW_EXPERIMENT_NAME": "e", "MLFLOW_EXPERIMENT_ID": "7"}
    assert loaded(environ).destination.experiment_id == "9"
    assert loaded(environ).destination.experiment_name is None
    given = loaded(environ, experiment="given").destination
    assert (given.experiment_name, given.experiment_id) == ("given", None)


def test_a_unity_catalog_tracing_destination_is_an_error_only_if_no_experiment_is_given() -> None:
    environ = {"MLFLOW_TRACING_DESTINATION": "catalog.schema", "MLFLOW_TRACKING_URI": "http://ada:s3cret@h"}
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACING_DESTINATION='catalog.schema' .*experiment"):
        loaded(environ)
    assert loaded(environ, experiment="given").destination.experiment_name == "given"
    assert full_uris(environ) == {"http://h": "http://ada:s3cret@h"}  # a sender needs no experiment


def test_the_default_spool_is_in_the_state_folder_of_the_user_or_else_in_a_temporary_folder(
    tmp_path: Path,
) -> None:
    assert loaded().spool_dir == tmp_path / "state" / "langchain-mlflow-tracer"
    (tmp_path / "file").write_text("")
    fallback = loaded({"XDG_STATE_HOME": str(tmp_path / "file")}).spool_dir
    assert fallback.name.startswith("langchain-mlflow-tracer-")
    assert spool_dir_of_environment({"LANGCHAIN_MLFLOW_TRACER_SPOOL_DIR": "/x/y"}) == Path("/x/y")


def test_finding_the_default_spool_folder_makes_no_folder(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert spool_dir_of_environment(environ) == tmp_path / "state/langchain-mlflow-tracer"
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").write_text("a file")
    assert spool_dir_of_environment(environ) == load({}, environ).spool_dir


def test_commands_read_the_same_settings_from_the_environment_as_a_tracer() -> None:
    assert named_destination(environ={}) is None
    assert named_destination(environ={"MLFLOW_TRACKING_URI": "http://h"}) == Destination("http://h")
    assert named_destination("http://i", "e", {"MLFLOW_TRACKING_URI": "http://h"}) == Destination(
        "http://i", "e"
    )
    own = {"LANGCHAIN_MLFLOW_TRACER_TRACKING_URI": "http://j", "MLFLOW_EXPERIMENT_NAME": "f"}
    assert named_destination(environ=own) == Destination("http://j", "f")
    assert spool_max_bytes_of_environment({}) == loaded().spool_max_bytes
    assert spool_max_bytes_of_environment({"LANGCHAIN_MLFLOW_TRACER_SPOOL_MAX_BYTES": "2e6"}) == 2_000_000


def test_a_tracer_without_any_writable_folder_asks_for_one_in_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match="spool_dir=None.*expected a folder"):
        loaded({"XDG_STATE_HOME": str(tmp_path / "file")})


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no user ids")
def test_a_spool_folder_of_another_user_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    if folder.stat().st_uid == 0:  # root's own folders are everybody's: give this one away
        os.chown(folder, 12_345, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        loaded(spool_dir=folder)


def test_a_disabled_tracer_makes_no_spool_folder(tmp_path: Path) -> None:
    settings = loaded({"LANGCHAIN_MLFLOW_TRACER_DISABLED": "true"}, spool_dir=tmp_path / "spool")
    assert settings.disabled
    assert not (tmp_path / "spool").exists()


def test_an_environment_variable_can_install_a_tracer() -> None:
    assert installed_by_environment({"LANGCHAIN_MLFLOW_TRACER": "True"})
    assert not installed_by_environment({"LANGCHAIN_MLFLOW_TRACER": "0"})
    assert not installed_by_environment({})


def test_a_sender_process_gets_credentials_and_the_package_root_by_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_MODEL_CATALOG_URI")
    given = {"http://h": "http://ada:pw@h"}
    environ = child_environment(given)
    assert environ["MLFLOW_MODEL_CATALOG_URI"] == ""
    package_root = Path(environ["PYTHONPATH"].split(os.pathsep)[0])
    assert Path(langchain_mlflow_tracer.__file__).is_relative_to(package_root / "langchain_mlflow_tracer")
    assert full_uris(environ) == given
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "file:///prices")
    assert child_environment({})["MLFLOW_MODEL_CATALOG_URI"] == "file:///prices"
    assert full_uris({"MLFLOW_TRACKING_URI": "http://ada:pw@h"}) == given


class TestDestination:
    def test_the_text_of_a_destination_has_no_credentials(self) -> None:
        assert str(Destination("http://ada:pw@h")) == "http://h"
        assert str(Destination("http://h", "e")) == "http://h (experiment 'e')"
        assert str(Destination("http://h", None, "7")) == "http://h (experiment id 7)"

    def test_a_destination_is_stored_without_credentials_and_gets_them_back(self) -> None:
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
    def test_a_tracking_uri_is_normalized(self, uri: str, checked: str) -> None:
        assert checked_tracking_uri("tracking_uri", uri) == checked

    def test_a_relative_store_path_is_relative_to_the_folder_where_the_application_started(
        self, tmp_path: Path
    ) -> None:
        assert checked_tracking_uri("u", "sqlite:///a b/m.db") == f"sqlite:///{tmp_path}/a b/m.db"
        assert Destination("sqlite:///x").is_server is False
