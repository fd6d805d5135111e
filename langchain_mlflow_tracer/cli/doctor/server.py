"""Looks at an MLflow server: whether it answers, its way in, our credentials, the experiment, its clock.

It asks as the exporter does, and stores nothing.
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
"""Seconds that two clocks may differ: beyond, traces are looked for at the wrong time, and tokens expire."""

SLOW: Final = 2.0
"""Seconds: an answer that costs a server nothing takes milliseconds."""

_ANYTHING: Final = frozenset(range(100, 1000))
_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

_CAUSES: Final = (
    ("ProxyError", "the proxy does not let us through",
     "See HTTPS_PROXY and HTTP_PROXY; name the server in NO_PROXY if it needs none."),
    ("gaierror", "its name is not known (DNS)", "See the host in the tracking URI, and this machine's DNS."),
    ("SSLCertVerificationError", "its certificate is not trusted here (TLS)",
     "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file with its authority's certificate."),
    ("SSLError", "it does not speak TLS as we do", "See whether the server has https at that port."),
    ("ConnectionRefusedError", "nobody listens there", "Start the server, and see the port in the URI."),
    ("ConnectTimeoutError", "no connection in time", "See firewalls and network policies on the way."),
    ("ReadTimeoutError", "it takes connections, but does not answer",
     "See the server's load, its database and its log."),
)  # fmt: skip
"""What can be the matter, by the type of exception that is somewhere below what the client raised."""


def look(destination: Destination) -> Iterator[Finding]:
    """Yield what is found of the server, in the order in which one thing needs the other."""
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
        found = checked(check, partial(_of_mlflow, check, find), about)
        yield from found
        if check == "server" and found[-1].outcome is Outcome.FAILED:
            return


def _get(connection: Connection, path: str, kind: Kind, params: Mapping[str, str] | None = None) -> Response:
    return connection.request("GET", path, params=params, kind=kind, accept=_ANYTHING, timeout=PROBE_TIMEOUT)


def _of_mlflow(check: str, find: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what is found; that something else than MLflow answers is a finding with an advice of its own."""
    try:
        yield from find()
    except NotMlflowError as error:
        yield failed(check, error.found, error.advice)


# Whether it answers.


def _unreachable(error: BaseException) -> Finding:
    if isinstance(error, NotMlflowError):
        return failed("server", error.found, error.advice)
    met = {type(one).__name__ for one in _chain(error)}
    for name, said, advice in _CAUSES:
        if name in met:
            return failed("server", f"{said}: {error}", advice)
    return failed(
        "server", str(error) or "no answer in time", "See whether that machine and its name server answer."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _answered(answer: Response, took: float) -> Iterator[Finding]:
    if answer.status_code in _REFUSED:
        yield _refused(answer)
    elif not answer.ok:
        yield failed("server", _quoted(answer), "See the server's log, and that of any proxy before it.")
    elif took > SLOW:
        yield warning("server", f"it took {took:.1f} s to answer", "See the server's load and database.")
    else:
        yield ok("server", f"it answers in {took * 1000:.0f} ms")


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
    told = email.utils.parsedate_tz(answer.headers.get("Date", ""))
    if told is None:
        yield ok("clock", "the server does not tell its time")
        return
    ahead = email.utils.mktime_tz(told) - time.time()
    if abs(ahead) > CLOCKS:
        yield warning(
            "clock", f"the server's is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours",
            "Synchronise both (NTP): traces carry our time, and tokens expire by the server's.",
        )  # fmt: skip
    else:
        yield ok("clock", f"the server's and ours differ by less than {CLOCKS:.0f} s")


# What it lets us do.


def _experiment(connection: Connection, destination: Destination) -> Iterator[Finding]:
    name, identity = destination.experiment_name, destination.experiment_id or DEFAULT_EXPERIMENT
    kind = json_with("experiment")
    if name is not None:
        answer = _get(connection, f"{EXPERIMENTS}/get-by-name", kind, {"experiment_name": name})
    else:
        answer = _get(connection, f"{EXPERIMENTS}/get", kind, {"experiment_id": identity})
    if answer.status_code in _REFUSED:
        yield _refused(answer)
        return
    yield ok("credentials", f"the server answers us ({_credentials(destination)})")
    if answer.status_code == HTTPStatus.NOT_FOUND:
        yield missing(destination)
    elif not answer.ok:
        yield failed("experiment", _quoted(answer), "See the experiment's id, and the server's log.")
    else:
        found: dict[str, Any] = answer.json()["experiment"]
        yield present(str(found["experiment_id"]), deleted=found.get("lifecycle_stage") == "deleted")


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
            "Let this user edit the experiment that traces go to. A proxy may forbid uploads, too.",
        )  # fmt: skip
    else:
        yield failed("upload", _quoted(answer), "See the log of the server, and of a proxy before it.")


def _refused(answer: Response) -> Finding:
    if answer.status_code == HTTPStatus.UNAUTHORIZED:
        return failed(
            "credentials", f"the server refuses ours: {_quoted(answer)}",
            "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, here and in"
            " every process that forwards.",
        )  # fmt: skip
    return failed(
        "credentials", f"the server knows us, but does not let us in there: {_quoted(answer)}",
        "Let this user read and edit the experiment, or name another one.",
    )  # fmt: skip


def _credentials(destination: Destination) -> str:
    """Say what kind of credentials is sent, in the order in which the client prefers them."""
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
