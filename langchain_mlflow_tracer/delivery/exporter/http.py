"""Makes one HTTP request to an MLflow server, with MLflow's credentials and without its retries.

`mlflow.utils.rest_utils.http_request` knows MLflow's authentication, TLS and workspaces. By default it
retries a dead server for four minutes (seen in mlflow 3.17.2) and follows redirects. Here a request is sent
once, or a second time if the server closed the connection; redirects are not followed, and only MLflow's own
answer is a success.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import io
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from langchain_mlflow_tracer.core.errors import ExportError, PermanentExportError, TransientExportError
from langchain_mlflow_tracer.delivery.exporter import answers

if TYPE_CHECKING:
    from requests import Response

__all__ = ["PROBE_TIMEOUT", "READ_TIMEOUT", "Connection", "error_of", "reason_of"]

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 15.0
"""Seconds to wait for an answer at first: a server with a busy database stores a full batch within them."""

PROBE_TIMEOUT: Final = 6.0
"""Seconds to wait at first for an answer that needs no work of the server."""

GROWTH: Final = 1.25
LONGEST: Final = 4.0
"""Factor of the wait after each failure, and its limit: a server may be slower than expected."""

_REFUSED: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_MAY_BE_THE_TRACE: Final = frozenset({
    HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
})  # fmt: skip
"""Statuses whose cause may be the trace, though the answer does not name it."""

_MAY_BE_THE_SERVER: Final = ('"BAD_REQUEST"', "Failed to log OpenTelemetry spans")
"""Texts of MLflow's answers with such statuses if its database or its own code failed (mlflow 3.17.2)."""

_CREDENTIALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

_HUNG_UP: Final = (ConnectionResetError, BrokenPipeError)
"""Errors of a connection that the server has closed; http.client's RemoteDisconnected is a reset too."""

ANY_JSON: Final = answers.json_with()
"""MLflow's answer to most requests that write: a JSON object, often an empty one."""

MAX_REASON: Final = 300
"""Characters of an answer that are quoted in an error: its first sentence, not an HTML page."""


class Connection:
    """Sends requests to the MLflow server at `tracking_uri`."""

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._patience = 1.0

    @property
    def tracking_uri(self) -> str:
        """The server's address, with credentials if it has some."""
        return self._tracking_uri

    @property
    def patience(self) -> float:
        """Factor by which the wait for an answer is longer than at first."""
        return self._patience

    def succeeded(self) -> None:
        """Wait as long as at first again: the request succeeded."""
        self._patience = 1.0

    def failed(self) -> None:
        """Wait longer next time."""
        self._patience = min(LONGEST, self._patience * GROWTH)

    def request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        json: object = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        kind: answers.Kind = ANY_JSON,
        accept: frozenset[int] = frozenset(),
        timeout: float = READ_TIMEOUT,
    ) -> Response:
        """Return the answer, if it is a success of that `kind` or has one of the error statuses in `accept`.

        Raises:
            TransientExportError: no answer, or one that may change.
            NotMlflowError: a transient error too: a redirect, or an answer that is not MLflow's.
            PermanentExportError: the server will never take this request.
        """
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - never on a caller's thread
        from mlflow.utils.credentials import get_default_host_creds  # noqa: PLC0415
        from mlflow.utils.rest_utils import http_request  # noqa: PLC0415

        # MLflow types neither of the two.
        call: Callable[..., Response] = http_request
        find: Callable[[str], Any] = get_default_host_creds

        def ask() -> Response:
            credentials = find(self._tracking_uri)
            given = (("data", data and _body(data, credentials)), ("json", json), ("params", params))
            return call(
                host_creds=credentials,
                endpoint=path,
                method=method,
                max_retries=0,
                timeout=(CONNECT_TIMEOUT, timeout * self._patience),
                raise_on_status=False,
                extra_headers=dict(headers or {}),
                # Passed on to requests (mlflow 3.12 to 3.17). A redirect can name any host, which would get
                # prompts (307, 308), or end in a login page whose 200 is no success (302).
                allow_redirects=False,
                **{name: value for name, value in given if value is not None},
            )

        try:
            answer = _again_where_hung_up(ask)
        except MlflowException as error:
            raise TransientExportError(
                f"no answer from {_bare(self._tracking_uri)}: {reason_of(error)}"
            ) from error
        if answer.ok:  # requests calls redirects ok too
            answers.check(path, answer, kind)
        elif answer.status_code not in accept:
            raise error_of(path, answer.status_code, answer.text, answer.headers.get("Retry-After"))
        return answer


def _again_where_hung_up(ask: Callable[[], Response]) -> Response:
    """Send the request a second time at once if the server has closed the connection.

    Servers close idle connections, perhaps just when one is used again. That is not a failure of the server,
    and each of our requests may be repeated.
    """
    try:
        return ask()
    except Exception as error:
        reason = _innermost(error)
        # urllib3 has it as an argument of its own error.
        if not any(isinstance(cause, _HUNG_UP) for cause in (reason, *reason.args)):
            raise
    return ask()  # not in the except block: its error would have the first error as its context


def _body(data: bytes, credentials: Any) -> bytes | io.BytesIO:
    """Return data as a file: bytes would have to be sent within the time to connect (requests 2.34).

    AWS signatures and plugins of MLflow that sign a request need the bytes.
    """
    return data if credentials.aws_sigv4 or credentials.auth else io.BytesIO(data)


def error_of(path: str, status: int, text: str, retry_after: str | None) -> ExportError:
    """Return the error for an answer that is not a success."""
    reason = f"{path} answered {status}: {text.strip()[:MAX_REASON]}"
    if status in _CREDENTIALS:
        reason = f"the server refuses our credentials (MLFLOW_TRACKING_TOKEN or _USERNAME?): {reason}"
    refused = status in _REFUSED
    if refused and not any(part in text for part in _MAY_BE_THE_SERVER):
        return PermanentExportError(reason)
    suspect = refused or status in _MAY_BE_THE_TRACE
    return TransientExportError(reason, status=status, retry_after=_seconds(retry_after), suspect=suspect)


def _seconds(value: str | None) -> float | None:
    """Read the header in both its forms: seconds, or a date."""
    if value is None:
        return None
    if value.isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - dt.datetime.now(tz=date.tzinfo)).total_seconds())


def reason_of(error: BaseException) -> str:
    """The innermost reason, without the layers of a client library around it."""
    reason = _innermost(error)
    return f"{type(reason).__name__}: {reason}"[:MAX_REASON]


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return error


def _bare(uri: str) -> str:
    from langchain_mlflow_tracer.settings.destination import Destination  # noqa: PLC0415

    return Destination(uri).without_credentials().tracking_uri
