"""Says where a trace goes: a tracking URI and an experiment, checked, and as text without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from langchain_mlflow_tracer.core.errors import ConfigurationError

__all__ = ["Destination", "checked_tracking_uri"]

_SERVER_SCHEMES = frozenset({"http", "https"})
_STORE_SCHEMES = frozenset({"sqlite"})
_CREDENTIALS = re.compile(r"//[^/]*@")
_SQLITE_FILE = re.compile(r"^(sqlite(?:\+\w+)?:///)(?!/)(.+)$")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where traces go. With neither an experiment's name nor its id it is MLflow's default one, "0"."""

    tracking_uri: str
    experiment_name: str | None = None
    experiment_id: str | None = None

    @property
    def is_server(self) -> bool:
        """Whether a tracking server over HTTP takes the traces, rather than a database of our own."""
        return urlsplit(self.tracking_uri).scheme in _SERVER_SCHEMES

    @property
    def has_credentials(self) -> bool:
        """Whether the URI itself holds a user or a password."""
        return "@" in urlsplit(self.tracking_uri).netloc

    def without_credentials(self) -> Destination:
        """Return the same destination as it may be written down: no user and no password in the URI."""
        parts = urlsplit(self.tracking_uri)
        if not self.has_credentials:
            return self
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        return replace(self, tracking_uri=urlunsplit(bare))

    def with_credentials(self, full_uris: Mapping[str, str]) -> Destination:
        """Return it with the URI that `full_uris` knows for its own, which is without credentials."""
        return replace(self, tracking_uri=full_uris.get(self.tracking_uri, self.tracking_uri))

    def __str__(self) -> str:
        """Return it for people: without credentials, and without the query, which may be a token."""
        uri = self.without_credentials().tracking_uri.partition("?")[0]
        if self.experiment_name is not None:
            return f"{uri} (experiment {self.experiment_name!r})"
        return f"{uri} (experiment id {self.experiment_id})" if self.experiment_id else uri

    def __repr__(self) -> str:
        return f"Destination({self.to_text()})"

    def to_text(self) -> str:
        """Return it as one line, without credentials: what rests in the spool beside a trace."""
        bare = self.without_credentials()
        return json.dumps([bare.tracking_uri, bare.experiment_name, bare.experiment_id])

    @classmethod
    def from_text(cls, text: str) -> Destination:
        """Read what `to_text` wrote."""
        return cls(*json.loads(text))


def checked_tracking_uri(argument: str, uri: str) -> str:
    """Return `uri` ready for use from any folder, or raise `ConfigurationError` naming `argument`."""
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    if scheme in _SERVER_SCHEMES and _has_host(uri):
        return _without_query(argument, uri).rstrip("/")
    if scheme in _STORE_SCHEMES:
        return _absolute(argument, uri)
    known = ", ".join(sorted(_SERVER_SCHEMES | _STORE_SCHEMES))
    raise ConfigurationError(
        argument,
        _CREDENTIALS.sub("//", uri),  # errors are logged
        "an MLflow server is given as http(s)://host[:port]"
        if scheme in _SERVER_SCHEMES
        else f"the scheme must be one of {known}; e.g. http://localhost:5000 or sqlite:///mlflow.db",
    )


def _without_query(argument: str, uri: str) -> str:
    """Return the address of a server, which has no query: a token there would be stored with every trace."""
    address, *query = re.split("[?#]", uri, maxsplit=1)
    if query:
        raise ConfigurationError(
            argument,
            f"{_CREDENTIALS.sub('//', address)}?...",  # errors are logged
            "an MLflow server is given without a query; a token belongs in MLFLOW_TRACKING_TOKEN",
        )
    return uri


def _has_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False


def _absolute(argument: str, uri: str) -> str:
    """A relative sqlite path is relative to the folder the application started in, wherever it is read."""
    match = _SQLITE_FILE.match(uri)
    if match is None or match[2].startswith(":"):
        return uri
    try:
        return match[1] + Path(unquote(match[2])).absolute().as_posix()
    except FileNotFoundError:
        raise ConfigurationError(argument, uri, "the current folder is gone: give an absolute path") from None
