"""Resolves how a tracer behaves: arguments before environment before defaults, each checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast, get_args

from langchain_mlflow_tracer.settings import mlflow_variables
from langchain_mlflow_tracer.settings.child_process import full_uris
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.options import (
    MIB,
    PREFIX,
    TRUE,
    Capture,
    Durability,
    Forwarding,
    History,
    Redact,
)
from langchain_mlflow_tracer.settings.reader import Reader
from langchain_mlflow_tracer.settings.spool_folder import is_writable, spool_dir, spool_dir_of_environment

__all__ = [
    "Settings",
    "installed_by_environment",
    "load",
    "named_destination",
    "spool_max_bytes_of_environment",
]

SPOOL_MAX_BYTES: Final = 1024 * MIB
"""A gibibyte is a day of an outage at ten traces of 1 kB a second; any disk has it."""

QUEUE_MAX_BYTES: Final = 32 * MIB
"""Bytes of finished traces in memory: the writer needs milliseconds, so it is for a burst, not an outage."""

EXIT_TIMEOUT: Final = 2.0
"""Seconds to wait for traces when the process ends: less than the ten that Docker waits before it kills."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a tracer behaves, resolved and checked; see `MlflowTracer` for what each setting means."""

    destination: Destination
    pinned_uri: bool
    """Whether the tracking URI is a setting of ours, so that a later change in MLflow does not count."""
    pinned_experiment: bool
    session_id: str | None
    user_id: str | None
    tags: Mapping[str, str]
    metadata: Mapping[str, str]
    sample_rate: float
    capture: Capture
    history: History
    redact: Redact = field(repr=False)
    durability: Durability
    forwarder: Forwarding
    spool_dir: Path
    spool_max_bytes: int
    queue_max_bytes: int
    exit_timeout: float
    disabled: bool

    def for_other_process(self, destination: Destination) -> Settings:
        """Return what may be sent to another process: with `destination`, without its credentials."""
        return replace(self, destination=destination.without_credentials())

    def for_this_process(self, environ: Mapping[str, str] = os.environ) -> Settings:
        """Return settings of another process with the credentials of this one.

        The spool folder is that of this process, too, where the other one cannot be written to from here.
        """
        return replace(
            self,
            destination=self.destination.with_credentials(full_uris(environ)),
            spool_dir=self.spool_dir if is_writable(self.spool_dir) else spool_dir_of_environment(environ),
        )


def load(arguments: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Settings:
    """Resolve `arguments` (None stands for "not given"), then the environment, then defaults.

    Raises:
        ConfigurationError: a value is wrong; the message names it and what is expected.
    """
    read = Reader(arguments, environ)
    disabled = read.boolean("disabled", default=False)
    if disabled:  # whatever is wrong in the environment, it must be possible to switch the tracer off
        environ = {}
        read = Reader(arguments, environ)
    uri, experiment, folder = read.text("tracking_uri"), read.text("experiment"), read.text("spool_dir")
    return Settings(
        destination=mlflow_variables.destination(uri, experiment, environ, read.origin("tracking_uri")),
        pinned_uri=uri is not None,
        pinned_experiment=experiment is not None,
        session_id=read.text("session_id"),
        user_id=read.text("user_id"),
        tags=read.pairs("tags"),
        metadata=read.pairs("metadata"),
        sample_rate=read.fraction("sample_rate", "MLFLOW_TRACE_SAMPLING_RATIO"),
        capture=cast("Capture", read.choice("capture", get_args(Capture))),
        history=cast("History", read.choice("history", get_args(History))),
        redact=read.redact(),
        durability=cast("Durability", read.choice("durability", get_args(Durability))),
        forwarder=cast("Forwarding", read.choice("forwarder", get_args(Forwarding))),
        spool_dir=Path(folder or ".") if disabled else spool_dir(folder, environ, read.origin("spool_dir")),
        spool_max_bytes=read.size("spool_max_bytes", default=SPOOL_MAX_BYTES),
        queue_max_bytes=read.size("queue_max_bytes", default=QUEUE_MAX_BYTES),
        exit_timeout=read.seconds("exit_timeout", default=EXIT_TIMEOUT),
        disabled=disabled,
    )


def installed_by_environment(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `LANGCHAIN_MLFLOW_TRACER=true` asks for a tracer on every chain of the process."""
    return environ.get(PREFIX, "").strip().lower() in TRUE


def named_destination(
    uri: str | None = None, experiment: str | None = None, environ: Mapping[str, str] = os.environ
) -> Destination | None:
    """Return the destination that the arguments or the environment name; None if they name none.

    Raises:
        ConfigurationError: a value is wrong.
    """
    read = Reader({"tracking_uri": uri, "experiment": experiment}, environ)
    own_uri, name = read.text("tracking_uri"), read.text("experiment")
    if not (own_uri or name or environ.get(mlflow_variables.URI)):
        return None
    return mlflow_variables.destination(own_uri, name, environ, read.origin("tracking_uri"))


def spool_max_bytes_of_environment(environ: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that the spool of a tracer without arguments may have.

    Raises:
        ConfigurationError: the variable is wrong.
    """
    return Reader({}, environ).size("spool_max_bytes", default=SPOOL_MAX_BYTES)
