"""Asks a server whether it is there, before mlflow is imported for it.

The import takes seconds and 150 MB, in the application's own process: too much for a server that is down.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.delivery.exporter.http import error_of, reason_of
from langchain_mlflow_tracer.settings.destination import Destination

__all__ = ["probe"]

PATH: Final = "/version"

SILENCE: Final = 0.75
"""Seconds after which a server is told of that has not answered: one that is well needs milliseconds. An
application may end before the question has failed, and nobody would learn why its traces wait."""


def probe(destination: Destination, timeout: float, tell: Callable[[str], None] = lambda _said: None) -> None:
    """Return when a server answers, whatever it says of itself, within `timeout` seconds.

    Where it takes long, `tell` hears of it meanwhile.

    It is asked without credentials, which are MLflow's to find, and its certificate is not checked, which is
    done when traces are sent. Proxies of the environment are used. A redirect is an answer, and not followed:
    a proxy may send those without credentials to its login, and let MLflow's client pass.

    Raises:
        TransientExportError: nobody answers, or a server that has trouble.
    """
    uri = destination.without_credentials().tracking_uri
    unchecked = ssl._create_unverified_context()  # noqa: S323, SLF001 - nothing is told, nothing is believed
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=unchecked), _EveryAnswer())
    try:
        with (
            _telling(tell, f"{uri} has not answered yet"),
            opener.open(f"{uri}{PATH}", timeout=timeout) as answer,
        ):
            status = answer.status
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
                text = answer.read(1024).decode(errors="replace")
                raise error_of(PATH, status, text, answer.headers.get("Retry-After"))
    except (OSError, http.client.HTTPException) as error:
        if not isinstance(getattr(error, "reason", error), ssl.SSLError):  # it may want a certificate of ours
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
def _telling(tell: Callable[[str], None], said: str) -> Iterator[None]:
    timer = threading.Timer(SILENCE, tell, [said])
    timer.daemon = True  # whoever ends meanwhile does not wait for it
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
