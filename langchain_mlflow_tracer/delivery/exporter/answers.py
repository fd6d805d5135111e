"""Distinguishes MLflow's own answers from those of a proxy, a login page or another program in front of it.

A status does not: a login page is sent with 200, and a redirect may lead to one. So each answer is compared
with what MLflow's server sends (read in 3.6, 3.9, 3.12 and 3.17).
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.delivery.exporter.entities import read_version

if TYPE_CHECKING:
    from requests import Response

__all__ = ["Kind", "NotMlflowError", "check", "is_file", "is_otlp", "is_stored", "is_version", "json_with"]

Kind = Callable[["Response"], bool]
"""Whether a success is the answer that MLflow gives to a request."""

QUOTED: Final = 80
"""Bytes of an answer that are quoted in an error: enough to recognize a page by its beginning."""

MAX_ADDRESS: Final = 200
"""Characters of an address that are quoted in an error: a host and the path of a login have fewer."""


class NotMlflowError(TransientExportError):
    """Something in front of MLflow answered in its place; `advice` is what to change."""

    def __init__(self, problem: str, advice: str, status: int) -> None:
        """Join both in the message."""
        super().__init__(f"{problem}: {advice}", status=status)
        self.problem = problem
        self.advice = advice


def check(path: str, answer: Response, kind: Kind) -> None:
    """Check an answer to the request for `path` whose status is not an error.

    Raises:
        NotMlflowError: it is a redirect, or a success of another kind.
    """
    status = answer.status_code
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise NotMlflowError(
            f"{path} is redirected ({status}) to {_target(answer)}, which is not followed",
            "set MLFLOW_TRACKING_URI to the address of the server behind it, or check the login of the proxy",
            status,
        )
    if not kind(answer):
        start = answer.content[:QUOTED].decode(errors="replace")
        sent = f"{_media_type(answer) or 'no content type'}, {start!r}"
        raise NotMlflowError(
            f"{path} answered {status}, but this is not an answer of MLflow ({sent})",
            "check MLFLOW_TRACKING_URI, and the login of a proxy before the server",
            status,
        )


def json_with(*names: str) -> Kind:
    """Return the kind of an answer that is a JSON object with these names: MLflow's REST API."""

    def is_json(answer: Response) -> bool:
        try:
            body = answer.json() if _media_type(answer) == "application/json" else None
        except ValueError:
            return False
        return isinstance(body, dict) and all(name in body for name in names)

    return is_json


def is_otlp(answer: Response) -> bool:
    """An answer to spans: an empty protobuf message, or from mlflow 3.6 a JSON object."""
    return _media_type(answer) == "application/x-protobuf" or json_with("partialSuccess")(answer)


def is_stored(answer: Response) -> bool:
    """An answer to a file: nothing at all from mlflow 3.17, a JSON object before."""
    return not answer.content or json_with()(answer)


def is_version(answer: Response) -> bool:
    """MLflow's version: a text that MLflow sends as HTML."""
    return read_version(answer.text) is not None


def is_file(answer: Response) -> bool:
    """A file of a trace, which MLflow sends as a download."""
    return answer.headers.get("Content-Disposition", "").startswith("attachment")


def _media_type(answer: Response) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _target(answer: Response) -> str:
    """Where a redirect points, without credentials, query string and parameters: they may hold secrets."""
    try:
        target = urlsplit(urljoin(answer.url, answer.headers.get("Location", "")))
    except ValueError:  # half an IPv6 address
        return "an address that is not valid"
    if "Location" not in answer.headers or target.scheme not in {"http", "https"}:
        return "no address"
    host, path = target.netloc.rpartition("@")[2], target.path.partition(";")[0]
    return f"{target.scheme}://{host}{path}"[:MAX_ADDRESS]
