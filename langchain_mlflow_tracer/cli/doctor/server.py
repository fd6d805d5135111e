"""Checks an MLflow server: its answer, its version, the credentials, the experiment, uploads, its clock.

The requests are those of the exporter, and store nothing.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from langchain_mlflow_tracer.cli.doctor.experiment import missing, present
from langchain_mlflow_tracer.cli.doctor.finding import Finding, Outcome, bounded, checked, failed, ok, warning
from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.delivery.exporter.answers import (
    Kind,
    NotMlflowError,
    is_otlp,
    is_version,
    json_with,
)
from langchain_mlflow_tracer.delivery.exporter.entities import (
    DEFAULT_EXPERIMENT,
    OLDEST_SERVER,
    OTLP_SINCE,
    dotted,
    read_version,
)
from langchain_mlflow_tracer.delivery.exporter.http import MAX_REASON, PROBE_TIMEOUT, Connection
from langchain_mlflow_tracer.delivery.exporter.server import EXPERIMENTS
from langchain_mlflow_tracer.settings.destination import Destination

if TYPE_CHECKING:
    from requests import Response

__all__ = ["look"]

CLOCKS: Final = 60.0
"""Seconds that two clocks may differ: beyond, traces appear at a wrong time, and tokens expire."""

SLOW: Final = 2.0
"""Seconds after which an answer is slow: this one needs milliseconds."""

_ANYTHING: Final = frozenset(range(100, 1000))
_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

_CAUSES: Final = (
    ("ProxyError", "the proxy rejects the connection",
     "Check HTTPS_PROXY and HTTP_PROXY; add the server to NO_PROXY if it needs no proxy."),
    ("gaierror", "its name is unknown (DNS)",
     "Check the host in the tracking URI, and the DNS of this machine."),
    ("SSLCertVerificationError", "its certificate is not trusted here (TLS)",
     "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file with the certificate of its authority."),
    ("SSLError", "the TLS connection failed", "Check whether the server uses https at that port."),
    ("ConnectionRefusedError", "no server listens at this address",
     "Start the server, and check the port in the URI."),
    ("ConnectTimeoutError", "no connection in time", "Check firewalls and network policies."),
    ("ReadTimeoutError", "it accepts connections, but does not answer",
     "Check the load of the server, its database and its log."),
)  # fmt: skip
"""Causes, by the type of an exception in the chain that the client raised."""


def look(destination: Destination) -> Iterator[Finding]:
    """Yield the findings about the server; each check needs those before it."""
    about = str(destination)
    connection = Connection(destination.tracking_uri)
    began = time.monotonic()
    try:
        answer = bounded(partial(_get, connection, "/version", is_version))
    except (TransientExportError, TimeoutError) as error:
        yield replace(_unreachable(error), about=about)
        return
    took = time.monotonic() - began
    for check, find in (
        ("server", partial(_answered, answer, took)),
        ("version", partial(_version, answer)),
        ("experiment", partial(_experiment, connection, destination)),
        ("upload", partial(_upload, connection, destination, answer)),
        ("clock", partial(_clock, answer)),
    ):
        findings = checked(check, partial(_of_mlflow, check, find), about)
        yield from findings
        if check == "server" and findings[-1].outcome is Outcome.FAILED:
            return


def _get(connection: Connection, path: str, kind: Kind, params: Mapping[str, str] | None = None) -> Response:
    return connection.request("GET", path, params=params, kind=kind, accept=_ANYTHING, timeout=PROBE_TIMEOUT)


def _of_mlflow(check: str, find: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings; an answer that is not MLflow's is a finding with its own advice."""
    try:
        yield from find()
    except NotMlflowError as error:
        yield failed(check, error.problem, error.advice)


# Whether it answers.


def _unreachable(error: BaseException) -> Finding:
    if isinstance(error, NotMlflowError):
        return failed("server", error.problem, error.advice)
    types = {type(cause).__name__ for cause in _chain(error)}
    for name, problem, advice in _CAUSES:
        if name in types:
            return failed("server", f"{problem}: {error}", advice)
    return failed(
        "server", str(error) or "no answer in time", "Check whether that machine and its name server answer."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answered(answer: Response, took: float) -> Iterator[Finding]:
    if answer.status_code in _REFUSED:
        yield _refused(answer)
    elif not answer.ok:
        yield failed("server", _quoted(answer), "Read the log of the server, and of a proxy before it.")
    elif took > SLOW:
        yield warning(
            "server", f"it answered after {took:.1f} s", "Check the load and the database of the server."
        )
    else:
        yield ok("server", f"it answered in {took * 1000:.0f} ms")


def _version(answer: Response) -> Iterator[Finding]:
    version = read_version(answer.text) or (0, 0)
    named = f"mlflow {answer.text.strip()[:MAX_REASON]}"
    if version >= OTLP_SINCE:
        yield ok("version", f"{named}: it receives many traces in one request (OTLP)")
    elif version >= OLDEST_SERVER:
        yield warning(
            "version", f"{named}: it receives traces one by one, and no running traces",
            f"Upgrade the server to {dotted(OTLP_SINCE)} or newer: it receives many traces in one request.",
        )  # fmt: skip
    else:
        yield failed(
            "version",
            f"{named}: too old, traces stay pending",
            f"Upgrade the server to {dotted(OLDEST_SERVER)} or newer.",
        )


def _clock(answer: Response) -> Iterator[Finding]:
    date = email.utils.parsedate_tz(answer.headers.get("Date", ""))
    if date is None:
        yield ok("clock", "the server does not send its time")
        return
    ahead = email.utils.mktime_tz(date) - time.time()
    if abs(ahead) > CLOCKS:
        yield warning(
            "clock",
            f"the server's is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's",
            "Synchronise both (NTP): traces have this machine's time, and tokens expire by the server's.",
        )  # fmt: skip
    else:
        yield ok("clock", f"the server's and this machine's differ by less than {CLOCKS:.0f} s")


# What it lets us do.


def _experiment(connection: Connection, destination: Destination) -> Iterator[Finding]:
    name, identity = destination.experiment_name, destination.experiment_id or DEFAULT_EXPERIMENT
    path, params = (
        ("get", {"experiment_id": identity}) if name is None else ("get-by-name", {"experiment_name": name})
    )
    answer = _get(connection, f"{EXPERIMENTS}/{path}", json_with("experiment"), params)
    if answer.status_code in _REFUSED:
        yield _refused(answer)
        return
    yield ok("credentials", f"the server accepts them ({_credentials(destination)})")
    if answer.status_code == HTTPStatus.NOT_FOUND:
        yield missing(destination)
    elif not answer.ok:
        yield failed(
            "experiment", _quoted(answer), "Check the id of the experiment, and read the server's log."
        )
    else:
        experiment: dict[str, Any] = answer.json()["experiment"]
        yield present(
            str(experiment["experiment_id"]), deleted=experiment.get("lifecycle_stage") == "deleted"
        )


def _upload(connection: Connection, destination: Destination, version: Response) -> Iterator[Finding]:
    """Send no spans: MLflow answers 400, and stores nothing. A proxy may answer uploads in its place."""
    if (read_version(version.text) or (0, 0)) < OTLP_SINCE:
        return
    identity = destination.experiment_id or DEFAULT_EXPERIMENT  # one with a name may have to be made first
    answer = connection.request(
        "POST", "/v1/traces", data=b"", kind=is_otlp, accept=_ANYTHING, timeout=PROBE_TIMEOUT,
        headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": identity},
    )  # fmt: skip
    if answer.ok or answer.status_code == HTTPStatus.BAD_REQUEST:
        yield ok("upload", "uploads reach the server (/v1/traces)")
    elif answer.status_code == HTTPStatus.UNAUTHORIZED:
        yield _refused(answer)
    elif answer.status_code == HTTPStatus.FORBIDDEN:
        yield warning(
            "upload", f"uploads to experiment {identity} are forbidden: {_quoted(answer)}",
            "Give this user permission to edit the experiment of the traces. A proxy may forbid uploads too.",
        )  # fmt: skip
    else:
        yield failed("upload", _quoted(answer), "Read the log of the server, and of a proxy before it.")


def _refused(answer: Response) -> Finding:
    if answer.status_code == HTTPStatus.UNAUTHORIZED:
        return failed(
            "credentials", f"the server rejects them: {_quoted(answer)}",
            "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, here and in"
            " every process that sends.",
        )  # fmt: skip
    return failed(
        "credentials", f"the server accepts them, but forbids the experiment: {_quoted(answer)}",
        "Give this user permission to read and edit the experiment, or use another one.",
    )  # fmt: skip


def _credentials(destination: Destination) -> str:
    """Return the kind of credentials that are sent, in the order in which the client prefers them."""
    from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415 - it takes seconds to import

    creds: Any = get_default_host_creds(destination.tracking_uri)  # type: ignore[no-untyped-call]  # mlflow types it not
    for sent, kind in (
        (destination.has_credentials, "user and password of the tracking URI"),
        (creds.username and creds.password, "user name and password"),
        (creds.token, "a token"),
        (creds.aws_sigv4, "AWS signatures"),
        (creds.auth, "MLFLOW_TRACKING_AUTH"),
        (creds.client_cert_path, "a client certificate"),
    ):
        if sent:
            return kind
    return "without credentials"


def _quoted(answer: Response) -> str:
    return f"it answered {answer.status_code}: {answer.text.strip()[:MAX_REASON] or 'nothing'}"
