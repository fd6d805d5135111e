"""Probes the server before mlflow is imported for it.

The import takes seconds and 150 MB, perhaps in the application's own process: too much if the server is down.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.exporter.http import error_of, reason_of
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["probe"]

PATH: Final = "/version"

SILENCE: Final = 0.75
"""Seconds without an answer until that is logged: a healthy server needs milliseconds. The application may
end before the request times out, and then no other log line would explain why its traces are pending."""


def probe(destination: Destination, timeout: float, log: Log) -> None:
    """Return as soon as the server answers, within `timeout` seconds; log it if that takes long.

    The request has no credentials, because MLflow's client finds those, and the certificate is not checked,
    because that is done when traces are sent. Proxies of the environment are used. A redirect counts as an
    answer and is not followed: a proxy may redirect requests without credentials to its login page, but
    accept those of MLflow's client.

    Raises:
        TransientExportError: no answer, or one that the server is overloaded or has failed.
    """
    uri = destination.without_credentials().tracking_uri
    unchecked = ssl._create_unverified_context()  # noqa: S323, SLF001 - it sends no secret and trusts no answer
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=unchecked), _EveryAnswer())
    try:
        with (
            _reporting(uri, log),
            opener.open(f"{uri}{PATH}", timeout=timeout) as answer,
        ):
            status = answer.status
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
                text = answer.read(1024).decode(errors="replace")
                raise error_of(PATH, status, text, answer.headers.get("Retry-After"))
    except (OSError, http.client.HTTPException) as error:
        if not isinstance(getattr(error, "reason", error), ssl.SSLError):  # it may require ours
            raise TransientExportError(f"no answer from {uri}: {reason_of(error)}") from error


class _EveryAnswer(urllib.request.HTTPErrorProcessor):
    """Returns every answer as it came: no error is raised, and no redirect followed."""

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        """Change nothing."""
        return response

    https_response = http_response


@contextlib.contextmanager
def _reporting(uri: str, log: Log) -> Iterator[None]:
    message = "%s has not answered yet: traces wait on disk"
    timer = threading.Timer(SILENCE, log.report, ["no_answer", message, uri])
    timer.daemon = True  # a process that ends meanwhile does not wait for it
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
