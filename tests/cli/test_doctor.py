"""Examines spools, servers and stores that are as they should be, and as they should not."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from langchain_mlflow_tracer.cli.doctor import disk, finding, store
from langchain_mlflow_tracer.cli.doctor import server as server_checks
from langchain_mlflow_tracer.cli.doctor.examine import Finding, Outcome, examine
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import FILE, Spool
from tests.support.faults import STOP_POLL, answering, hanging, older, refusing
from tests.support.operating import bury, call, fill
from tests.support.proxy import FaultProxy, answers_to, redirects, shows_login

OK, WARNING, FAILED = Outcome.OK, Outcome.WARNING, Outcome.FAILED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def found(folder: Path, check: str, uri: str | None = None, experiment: str | None = None) -> Finding:
    """Return the worst finding of that check."""
    all_of_them = [one for one in examine(folder, uri, experiment) if one.check == check]
    return max(all_of_them, key=lambda one: list(Outcome).index(one.outcome))


def of_server(uri: str, check: str, experiment: str | None = "assistant") -> Finding:
    """Return what is found of a server, where the spool does not matter."""
    return found(Path("none"), check, uri, experiment)


def photograph(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the modes and contents of the files below `folder`."""
    return {
        # SQLite counts in a file's header how often it was opened.
        str(file): (file.stat().st_mode, file.read_bytes()[100:] if file.is_file() else b"")
        for file in sorted(folder.rglob("*"))
        if not file.name.endswith(("-shm", "-wal"))
    }


class TestSpool:
    def test_doctor_finds_no_problem_in_a_healthy_spool(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9", 1)
        for check in ("spool folder", "disk", "spool file", "integrity", "pending", "rejected"):
            assert found(folder, check).outcome is OK, check

    def test_doctor_does_not_create_a_missing_spool(self, folder: Path) -> None:
        assert found(folder, "spool folder").outcome is WARNING
        assert found(folder, "spool file").outcome is OK
        assert not folder.exists()

    def test_doctor_does_not_create_the_default_spool(self, tmp_path: Path) -> None:
        assert call("doctor").exit_code == 0
        assert not (tmp_path / "state").exists()

    def test_doctor_changes_nothing_in_a_spool(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        bury(folder, "no")
        before = photograph(folder)
        list(examine(folder))
        assert photograph(folder) == before

    def test_doctor_warns_of_a_spool_folder_that_other_users_can_open(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        folder.chmod(0o755)
        finding = found(folder, "spool folder")
        assert (finding.outcome, finding.advice) == (WARNING, f"Run: chmod 700 {folder}")

    def test_doctor_warns_of_a_spool_file_that_other_users_can_read(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        (folder / FILE).chmod(0o644)
        assert found(folder, "spool file").advice == f"Run: chmod 600 {folder / FILE}"

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
    def test_doctor_reports_a_spool_folder_of_another_user(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        os.chown(folder, 12345, 12345)
        finding = found(folder, "spool folder")
        assert finding.outcome is FAILED
        assert "belongs to user 12345" in finding.found

    def test_doctor_reports_a_file_in_place_of_the_spool_folder(self, folder: Path) -> None:
        folder.write_text("")
        assert "is a file" in found(folder, "spool folder").found

    def test_doctor_reports_a_spool_folder_that_is_not_writable(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(disk, "writable", lambda _path: False)  # root may write everywhere
        assert found(folder, "spool folder").outcome is FAILED
        folder.mkdir(mode=0o700)
        finding = found(folder, "spool folder")
        assert finding.outcome is FAILED
        assert "is not writable" in finding.found

    def test_doctor_reports_a_spool_file_that_is_not_a_database(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        (folder / FILE).write_bytes(b"this is no database, whatever its name says" * 100)
        before = photograph(folder)
        finding = found(folder, "spool file")
        assert finding.outcome is FAILED
        assert "not a database" in finding.found
        assert photograph(folder) == before

    def test_doctor_reports_a_damaged_page_of_the_spool(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9", 200)
        with (folder / FILE).open("r+b") as file:
            file.seek(5 * 4096)
            file.write(b"\xff" * 4096 * 4)
        assert found(folder, "integrity").outcome is FAILED

    def test_doctor_does_not_change_a_database_of_another_program(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        with contextlib.closing(sqlite3.connect(folder / FILE)) as other:
            other.execute("CREATE TABLE theirs (value)")
        before = photograph(folder)
        assert "another program" in found(folder, "spool file").found
        assert photograph(folder) == before

    @pytest.mark.parametrize(("version", "outcome"), [(1, WARNING), (99, FAILED)])
    def test_doctor_does_not_upgrade_a_spool_of_another_release(
        self, version: int, outcome: Outcome, folder: Path
    ) -> None:
        fill(folder, "http://127.0.0.1:9")
        with contextlib.closing(sqlite3.connect(folder / FILE)) as spool:
            spool.execute(f"PRAGMA user_version = {version}")
        before = photograph(folder)
        assert found(folder, "spool file").outcome is outcome
        assert photograph(folder) == before

    def test_doctor_warns_of_a_damaged_file_that_was_renamed(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        (folder / f"{FILE}.damaged").write_bytes(b"")
        finding = found(folder, "spool file")
        assert finding.outcome is WARNING
        assert "spool.db.damaged" in finding.found

    def test_doctor_reports_a_disk_with_less_space_than_the_spool_may_use(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LANGCHAIN_MLFLOW_TRACER_SPOOL_MAX_BYTES", str(10**18))
        assert found(folder, "disk").outcome is WARNING
        monkeypatch.setattr(disk, "SCARCE", 10**18)
        assert found(folder, "disk").outcome is FAILED

    def test_doctor_reports_a_disk_that_hangs(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        released = threading.Event()
        monkeypatch.setattr(finding, "PATIENCE", 0.1)
        monkeypatch.setattr(disk, "folder", lambda _folder: released.wait(20))
        began = time.monotonic()
        try:
            hung = finding.checked("spool folder", lambda: disk.folder(folder), seconds=0.1)[0]
        finally:
            released.set()
        assert (hung.outcome, time.monotonic() - began < 5) == (FAILED, True)
        assert "no answer" in hung.found

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(3)])
    def test_doctor_continues_after_a_plugin_raises_system_exit(self, error: BaseException) -> None:
        def look() -> list[finding.Finding]:
            raise error

        (broken,) = finding.checked("any", look)
        assert (broken.outcome, f"{type(error).__name__}: 3" in broken.found) == (FAILED, True)

    def test_doctor_reports_a_check_that_raises_as_failed(self) -> None:
        (broken,) = finding.checked("any", lambda: [next(iter(()))], about="http://h")
        assert (broken.outcome, broken.about) == (FAILED, "http://h")


class TestQueue:
    def test_doctor_warns_of_pending_traces_without_a_sender(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        assert found(folder, "sender").outcome is WARNING
        spool = Spool(folder, 2**40)
        drain = spool.drain()
        assert drain is not None
        assert found(folder, "sender").outcome is OK
        drain.release()
        spool.close()

    def test_doctor_shows_how_long_traces_are_pending_and_the_last_error(self, folder: Path) -> None:
        spool = Spool(folder, 2**40, clock=lambda: time.time() - 7_300)
        where = Destination("http://127.0.0.1:9").to_text()
        spool.put([Item("k", where, "p", b"")])
        spool.nack(where, "no route to host")
        spool.close()
        assert "2.0 h" in found(folder, "pending").found
        assert "no route to host" in found(folder, "last error").found

    def test_doctor_names_the_command_that_lists_dead_letters(self, folder: Path) -> None:
        fill(folder, "http://127.0.0.1:9")
        bury(folder, "no")
        assert "dead-letters list" in found(folder, "rejected").advice

    def test_doctor_checks_the_destinations_of_pending_traces_and_the_configured_one(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with refusing() as waited_for, refusing() as configured:
            fill(folder, waited_for)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", configured)
            about = [one.about for one in examine(folder) if one.check == "server"]
        assert about == [waited_for, configured]


@contextlib.contextmanager
def behind_a_password(server: str) -> Iterator[str]:
    """Yield the address of a server that answers ada by 404, others by 401, and tells its version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = HTTPStatus.OK, b"3.17.2"
            if not self.path.startswith("/version"):
                ada = self.headers.get("Authorization") == "Basic YWRhOnNlY3JldA=="
                status, body = (HTTPStatus.NOT_FOUND if ada else HTTPStatus.UNAUTHORIZED), b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.send_error(HTTPStatus.BAD_REQUEST)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, args=(STOP_POLL,), daemon=True).start()
    try:
        yield f"http://{server}127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()


class TestServer:
    def test_doctor_finds_no_problem_in_a_healthy_server(self, server: str) -> None:
        found = list(examine(Path("none"), server, "not there yet"))
        outcomes = {one.check: one.outcome for one in found if one.about}
        assert outcomes == dict.fromkeys(
            ("server", "version", "credentials", "experiment", "upload", "clock"), OK
        )
        assert any("the first trace creates it" in one.found for one in found)
        assert MlflowClient(server).get_experiment_by_name("not there yet") is None

    def test_doctor_distinguishes_existing_deleted_and_missing_experiments_of_a_server(
        self, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = MlflowClient(server)
        identity = client.create_experiment("examined")
        assert of_server(server, "experiment", "examined").found == f"it exists (id {identity})"
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", identity)
        assert of_server(server, "experiment", None).outcome is OK
        client.delete_experiment(identity)
        assert "restore" in of_server(server, "experiment", "examined").advice
        assert of_server(server, "experiment", None).outcome is FAILED
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987654321")
        assert "no experiment has the id 987654321" in of_server(server, "experiment", None).found

    def test_doctor_warns_of_a_server_before_3_15_and_fails_for_one_before_3_12(self, server: str) -> None:
        with older(server, "3.14.0") as address:
            assert "one by one" in of_server(address, "version").found
        with older(server, "3.11.1") as address:
            finding = of_server(address, "version")
        assert (finding.outcome, finding.advice) == (FAILED, "Upgrade the server to 3.12 or newer.")

    def test_doctor_reports_an_address_where_no_server_listens(self) -> None:
        with refusing() as address:
            assert "no server listens at this address" in of_server(address, "server").found

    def test_doctor_reports_a_host_name_that_dns_does_not_know(self) -> None:
        assert "DNS" in of_server("http://no-such-host.invalid", "server").found

    def test_doctor_reports_a_server_that_never_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_checks, "PROBE_TIMEOUT", 0.3)
        with hanging() as address:
            assert "does not answer" in of_server(address, "server").found

    def test_doctor_reports_a_server_without_tls_at_an_https_address(self) -> None:
        with answering(200) as address:
            assert "TLS" in of_server(address.replace("http", "https"), "server").found

    def test_doctor_reports_a_certificate_that_is_not_trusted(self, tmp_path: Path) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert",
             "-subj", "/CN=127.0.0.1"], cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
        listener = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, args=(STOP_POLL,), daemon=True).start()
        finding = of_server(f"https://127.0.0.1:{listener.server_port}", "server")
        listener.shutdown()
        listener.server_close()
        assert "certificate is not trusted" in finding.found
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in finding.advice

    def test_doctor_reports_a_proxy_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with refusing() as address:
            monkeypatch.setenv("HTTP_PROXY", address)
            assert "proxy" in of_server("http://mlflow.example.com", "server").found

    @pytest.mark.parametrize("status", [500, 503])
    def test_doctor_quotes_the_error_of_a_server_that_fails(self, status: int) -> None:
        with answering(status) as address:
            assert of_server(address, "server").found == f"it answered {status}: no"

    def test_doctor_reports_an_answer_that_is_not_from_mlflow(self) -> None:
        with answering(200, b"<html>Please log in") as address:
            finding = of_server(address, "server")
        assert "not an answer of MLflow" in finding.found
        assert "check MLFLOW_TRACKING_URI" in finding.advice

    @pytest.mark.parametrize(
        ("request_line", "check"),
        [("GET /version", "server"), ("GET /api/2.0", "experiment"), ("POST /v1/traces", "upload")],
    )
    def test_doctor_reports_a_redirect_and_the_setting_to_change(
        self, request_line: str, check: str, server: str
    ) -> None:
        with FaultProxy(server) as proxy:
            proxy.fault = redirects(
                request_line, 302, "https://ada:hunter2@login.example.com/in?state=s3cret"
            )
            finding = of_server(proxy.address, check)
        assert finding.outcome is FAILED
        assert "redirected (302) to https://login.example.com/in, which is not followed" in finding.found
        assert "set MLFLOW_TRACKING_URI" in finding.advice

    def test_doctor_reports_a_login_page_in_place_of_an_answer(self, server: str) -> None:
        with FaultProxy(server) as proxy:
            proxy.fault = shows_login("POST /v1/traces")
            finding = of_server(proxy.address, "upload")
        assert finding.outcome is FAILED
        assert "Please log in" in finding.found

    @pytest.mark.parametrize(("status", "check"), [(401, "credentials"), (403, "upload"), (404, "upload")])
    def test_doctor_reports_uploads_that_are_refused(self, status: int, check: str, server: str) -> None:
        with FaultProxy(server) as proxy:
            proxy.fault = answers_to("POST", status)
            assert f"it answered {status}" in of_server(proxy.address, check).found

    def test_the_upload_check_of_doctor_stores_nothing(self, server: str) -> None:
        client = MlflowClient(server)
        before = len(client.search_traces(["0"], max_results=500))
        assert of_server(server, "upload").outcome is OK
        assert len(client.search_traces(["0"], max_results=500)) == before

    @pytest.mark.parametrize("status", [401, 403])
    def test_doctor_reports_a_server_that_refuses_the_credentials(self, status: int) -> None:
        with answering(status, version="3.17.2") as address:
            assert of_server(address, "credentials").outcome is FAILED
        with answering(status) as address:
            assert of_server(address, "credentials").outcome is FAILED

    def test_doctor_reports_an_answer_that_it_cannot_read(self) -> None:
        with answering(400, version="3.17.2") as address:
            assert of_server(address, "experiment").found == "it answered 400: no"
        with answering(200, b"[]", version="3.17.2") as address:
            assert of_server(address, "experiment").outcome is FAILED

    def test_doctor_warns_of_a_wrong_clock_of_the_server(self) -> None:
        with answering(404, version="3.17.2") as address:
            assert of_server(address, "clock").outcome is OK
        with answering(200, b"3.17.2", {"Date": "Mon, 05 Jan 2015 10:00:00 GMT"}) as address:
            assert "behind this machine's" in of_server(address, "clock").found
        with answering(200, b"3.17.2", {"Date": ""}) as address:
            assert of_server(address, "clock").outcome is OK

    @pytest.mark.parametrize(
        ("in_uri", "variables", "kind"),
        [
            ("ada:secret@", {}, "user and password of the tracking URI"),
            ("", {"USERNAME": "ada", "PASSWORD": "secret"}, "user name and password"),
        ],
    )
    def test_doctor_uses_credentials_and_never_prints_them(
        self, in_uri: str, variables: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        with behind_a_password(in_uri) as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "assistant")
            result = call("doctor")
        assert result.exit_code == 0
        assert kind in result.output
        assert "secret" not in result.output

    def test_doctor_uses_the_credentials_in_its_tracking_uri_option(self) -> None:
        with behind_a_password("ada:secret@") as address:
            result = call("doctor", "--tracking-uri", address)
        assert "user and password of the tracking URI" in result.output
        assert "secret" not in result.output

    def test_doctor_uses_the_credentials_in_an_option_for_all_pending_traces_of_that_server(
        self, folder: Path
    ) -> None:
        with behind_a_password("ada:secret@") as address:
            fill(folder, address, experiment="another")
            result = call("doctor", "--tracking-uri", address, "--experiment", "new", "--spool-dir", folder)
        assert result.exit_code == 0
        assert result.output.count("user and password of the tracking URI") == 2
        assert "secret" not in result.output

    def test_doctor_does_not_print_a_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
        with answering(404, version="3.17.2") as address:
            assert "a token" in (result := call("doctor", "--tracking-uri", address, "--json")).output
        assert "t0ken" not in result.output


class TestStore:
    def test_doctor_finds_no_problem_in_a_healthy_database(self, store_uri: str, tmp_path: Path) -> None:
        before = photograph(tmp_path)
        assert of_server(store_uri, "database").outcome is OK
        assert of_server(store_uri, "experiment", None).outcome is OK
        assert "the first trace creates it" in of_server(store_uri, "experiment", "new").found
        assert photograph(tmp_path) == before

    def test_doctor_does_not_create_a_missing_database(self, tmp_path: Path) -> None:
        finding = of_server(f"sqlite:///{tmp_path}/new/mlflow.db", "database")
        assert (finding.outcome, "the first trace creates it" in finding.found) == (OK, True)
        assert not (tmp_path / "new").exists()

    def test_doctor_reports_a_database_that_is_not_writable(
        self, store_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "writable", lambda _path: False)  # root may write everywhere
        assert of_server(store_uri, "database").outcome is FAILED

    def test_doctor_reports_a_deleted_or_missing_experiment_of_a_database(
        self, store_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = MlflowClient(store_uri)
        client.delete_experiment(client.create_experiment("gone"))
        assert of_server(store_uri, "experiment", "gone").outcome is FAILED
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
        assert of_server(store_uri, "experiment", None).outcome is FAILED

    def test_doctor_reports_a_database_schema_of_another_mlflow(self, store_uri: str, tmp_path: Path) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
            store.execute("UPDATE alembic_version SET version_num = 'older'")
        assert "mlflow db upgrade" in of_server(store_uri, "database").advice

    def test_doctor_reports_files_that_are_not_mlflow_databases(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("no database" * 1_000)
        assert of_server(f"sqlite:///{tmp_path}/text", "database").outcome is FAILED
        with contextlib.closing(sqlite3.connect(tmp_path / "other")) as other:
            other.execute("CREATE TABLE theirs (value)")
        assert of_server(f"sqlite:///{tmp_path}/other", "database").outcome is WARNING
        (tmp_path / "empty").write_bytes(b"")
        assert of_server(f"sqlite:///{tmp_path}/empty", "database").outcome is OK

    def test_doctor_warns_of_a_database_in_memory(self) -> None:
        assert of_server("sqlite:///:memory:", "database").outcome is WARNING


class TestCommand:
    def test_doctor_prints_advice_and_exits_with_1_if_a_check_failed(self, folder: Path) -> None:
        with refusing() as address:
            fill(folder, address)
            result = call("doctor", "--spool-dir", folder)
            as_json = call("doctor", "--spool-dir", folder, "--json")
        assert (result.exit_code, as_json.exit_code) == (1, 1)
        assert f"\n{address}\n" in result.stdout
        assert "failed   server        no server listens at this address" in result.stdout
        assert "→ Start the server" in result.stdout
        found = json.loads(as_json.stdout)
        assert found["ok"] is False
        (server,) = [one for one in found["checks"] if one["check"] == "server"]
        assert (server["outcome"], server["about"]) == ("failed", address)

    def test_doctor_reports_a_wrong_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://ada:secret@h")
        result = call("doctor")
        assert result.exit_code == 1
        assert "MLFLOW_TRACKING_URI" in result.stdout
        assert "secret" not in result.stdout

    def test_doctor_suggests_a_tracking_uri_if_no_destination_is_configured(self) -> None:
        result = call("doctor")
        assert result.exit_code == 0
        assert "Set MLFLOW_TRACKING_URI" in result.stdout
