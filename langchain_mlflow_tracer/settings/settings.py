"""Resolves how a tracer behaves: arguments before environment before defaults, each checked.

The only reader of the environment. Every setting has a variable `LANGCHAIN_MLFLOW_TRACER_<NAME>`.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast, get_args

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.settings.destination import Destination, checked_tracking_uri

__all__ = [
    "Capture",
    "Durability",
    "Forwarding",
    "History",
    "Redact",
    "Settings",
    "child_environment",
    "download_nothing",
    "environment_experiment",
    "full_uris",
    "handed_uris",
    "installed_by_environment",
    "load",
    "spool_dir_of_environment",
    "spool_max_bytes_of_environment",
    "told_destination",
    "traces_experiment",
]

PREFIX: Final = "LANGCHAIN_MLFLOW_TRACER"

Capture: TypeAlias = Literal["content", "metadata"]
"""`content`: everything. `metadata`: names, times, models, tokens and outcomes, but no inputs, outputs,
messages, documents, tool arguments or error texts."""

Durability: TypeAlias = Literal["background", "sync"]
"""`background`: a writer thread commits finished traces to the spool, within milliseconds.
`sync`: the thread that ends the root does it, before the chain returns."""

Forwarding: TypeAlias = Literal["auto", "thread", "process", "none"]
"""Who empties the spool: a thread here, a process of its own, or nobody here (a sidecar does).
`auto`: a process, whose work and memory are not the application's; a thread where none can be run."""

History: TypeAlias = Literal["once", "full"]
"""`once`: a conversation is told once in a trace; where it comes again, the span that has it is named.
`full`: every model call and every node of a graph has all that it was given."""

Redact: TypeAlias = bool | Callable[[str], str]
"""True: the built-in patterns. False: nothing. A function from text to text: it, after the patterns."""

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})
_MIB: Final = 1024 * 1024
DISK_PATIENCE: Final = 1.0
"""Seconds that a disk is given to make a folder and a file."""
_FULL_URIS: Final = f"{PREFIX}_FULL_URIS"
_PRICES: Final = "MLFLOW_MODEL_CATALOG_URI"
_TRACES: Final = "MLFLOW_TRACING_DESTINATION"

SPOOL_MAX_BYTES: Final = 1024 * _MIB
"""A gibibyte is a day of an outage at ten traces of 1 kB a second; any disk has it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a tracer behaves, resolved and checked; see `MlflowTracer` for what each setting means."""

    destination: Destination
    pinned_uri: bool
    """Whether the tracking URI was given to us, rather than found where MLflow finds it."""
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

    def portable(self, destination: Destination) -> Settings:
        """Return what may travel to another process: to `destination`, which loses its credentials."""
        return replace(self, destination=destination.without_credentials())

    def settled(self, environ: Mapping[str, str] = os.environ) -> Settings:
        """Return settings that came from elsewhere as they can be used here.

        The credentials are this process's own, and so is the spool where the given folder is no use here.
        """
        usable = _unwritable(self.spool_dir) is None
        return replace(
            self,
            destination=self.destination.with_credentials(full_uris(environ)),
            spool_dir=self.spool_dir if usable else spool_dir_of_environment(environ),
        )


def installed_by_environment(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `LANGCHAIN_MLFLOW_TRACER=true` asks for a tracer on every chain of the process."""
    return environ.get(PREFIX, "").strip().lower() in _TRUE


def load(arguments: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Settings:
    """Resolve `arguments` (None stands for "not given"), then the environment, then defaults.

    Raises:
        ConfigurationError: a value is wrong; the message names it and says what would be right.
    """
    read = _Reader(arguments, environ)
    disabled = read.boolean("disabled", default=False)
    if disabled:  # the kill switch works whatever else the environment says
        environ = {}
        read = _Reader(arguments, environ)
    own_uri, own_experiment = read.text("tracking_uri"), read.text("experiment")
    return Settings(
        destination=_destination(own_uri, own_experiment, environ, read.origin("tracking_uri")),
        pinned_uri=own_uri is not None,
        pinned_experiment=own_experiment is not None,
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
        spool_dir=_spool_dir(read.text("spool_dir"), environ, read.origin("spool_dir"), disabled=disabled),
        spool_max_bytes=read.size("spool_max_bytes", default=SPOOL_MAX_BYTES),
        # What may wait in memory for the writer, which takes milliseconds: a burst, not an outage.
        queue_max_bytes=read.size("queue_max_bytes", default=32 * _MIB),
        exit_timeout=read.seconds("exit_timeout", default=2.0),
        disabled=disabled,
    )


def child_environment(full_uris: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a forwarder of its own: it finds this package, traces and downloads nothing.

    MLflow prices a stored model call from a list that it downloads unless `MLFLOW_MODEL_CATALOG_URI` is set,
    and empty means the list it brings along (mlflow 3.17). The credentials of `full_uris` travel this way
    because an environment, unlike the spool, does not rest on disk.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    return {
        _PRICES: "",
        **{name: value for name, value in os.environ.items() if name != PREFIX},
        "PYTHONPATH": path,
        _FULL_URIS: json.dumps(dict(full_uris)),
    }


def download_nothing(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let MLflow price model calls in this process from the list it brings along; see `child_environment`."""
    environ.setdefault(_PRICES, "")


def full_uris(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what `child_environment` was given, or what this process's own settings know."""
    known = handed_uris(environ)
    own = Destination(_tracking_uri(environ.get(f"{PREFIX}_TRACKING_URI"), environ))
    if own.has_credentials:
        known[own.without_credentials().tracking_uri] = own.tracking_uri
    return known


def handed_uris(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what `child_environment` was given; what else the environment says may be of no use here."""
    handed: dict[str, str] = json.loads(environ.get(_FULL_URIS) or "{}")
    return handed


def told_destination(
    uri: str | None = None, experiment: str | None = None, environ: Mapping[str, str] = os.environ
) -> Destination | None:
    """Return where the arguments or the environment say that traces go; None where neither says anything.

    Raises:
        ConfigurationError: what they say is wrong.
    """
    read = _Reader({"tracking_uri": uri, "experiment": experiment}, environ)
    given, name = read.text("tracking_uri"), read.text("experiment")
    if not (given or name or environ.get("MLFLOW_TRACKING_URI")):
        return None
    return _destination(given, name, environ, read.origin("tracking_uri"))


def traces_experiment(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the id of the experiment that `MLFLOW_TRACING_DESTINATION` names, if it is set (mlflow 3.17).

    Raises:
        ConfigurationError: it names a schema of Databricks' Unity Catalog, to which we do not deliver.
    """
    named = environ.get(_TRACES)
    if named and "." in named:
        raise ConfigurationError(_TRACES, named, "the id of an experiment is expected")
    return named or None


def environment_experiment(environ: Mapping[str, str] = os.environ) -> tuple[str | None, str | None]:
    """Return the name of MLflow's experiment as its environment says it, or else the id, or neither."""
    name = environ.get("MLFLOW_EXPERIMENT_NAME") or None
    return name, None if name else environ.get("MLFLOW_EXPERIMENT_ID") or None


def spool_max_bytes_of_environment(environ: Mapping[str, str] = os.environ) -> int:
    """Return the bytes that the spool of a tracer that was told nothing else may take.

    Raises:
        ConfigurationError: the environment names no such number.
    """
    return _Reader({}, environ).size("spool_max_bytes", default=SPOOL_MAX_BYTES)


def spool_dir_of_environment(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the traces of a tracer that was told nothing else wait: what an operator's command looks at.

    Makes nothing: looking must not leave traces of its own.
    """
    named = environ.get(f"{PREFIX}_SPOOL_DIR")
    return _expanded(named) if named else _default_spool_dir(environ, _seems_writable)


def _destination(
    uri: str | None, experiment: str | None, environ: Mapping[str, str], origin: str = "tracking_uri"
) -> Destination:
    """MLflow's own variables where we were told nothing; its own default store where it was not either."""
    tracking_uri = _tracking_uri(uri, environ, origin)
    if experiment:
        return Destination(tracking_uri, experiment)
    if identity := traces_experiment(environ):
        return Destination(tracking_uri, None, identity)
    return Destination(tracking_uri, *environment_experiment(environ))


def _tracking_uri(uri: str | None, environ: Mapping[str, str], origin: str = "tracking_uri") -> str:
    if uri is not None:
        return checked_tracking_uri(origin, uri)
    found = environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    return checked_tracking_uri("MLFLOW_TRACKING_URI", found)


def _spool_dir(given: str | None, environ: Mapping[str, str], origin: str, *, disabled: bool) -> Path:
    if disabled:
        return Path(given or ".")
    if given is not None:
        folder = _expanded(given)
        problem = _unwritable(folder)
        if problem is None:
            return folder
        raise ConfigurationError(origin, given, f"a folder this process can write to ({problem})")
    folder = _default_spool_dir(environ, lambda folder: _unwritable(folder) is None)
    problem = _unwritable(folder)
    if problem is None:
        return folder
    raise ConfigurationError("spool_dir", None, f"give a folder this process can write to ({problem})")


def _expanded(folder: str) -> Path:
    return Path(os.path.expanduser(folder)).absolute()  # noqa: PTH111 - Path's raises for an unknown user


def _default_spool_dir(environ: Mapping[str, str], usable: Callable[[Path], bool]) -> Path:
    """The user's state folder (XDG base directories), or a temporary one where that is no use."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is no home
    state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    folder = Path(state).absolute() / "langchain-mlflow-tracer"
    if usable(folder):
        return folder
    return Path(tempfile.gettempdir()) / f"langchain-mlflow-tracer-{_user()}"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _seems_writable(folder: Path) -> bool:
    """Whether `folder`, or the folder that it would be made in, may be written to, as far as can be seen."""
    try:
        there = next(one for one in (folder, *folder.parents) if one.exists())
        foreign = there == folder and hasattr(os, "getuid") and there.stat().st_uid not in {os.getuid(), 0}
        return there.is_dir() and not foreign and os.access(there, os.W_OK | os.X_OK)
    except (OSError, ValueError, StopIteration):
        return False


def _unwritable(folder: Path) -> str | None:
    """What keeps us from writing to `folder`; nothing, for the moment, where the disk does not answer."""
    found: list[str | None] = []
    # A thread of its own: an application must start although a disk hangs.
    asking = threading.Thread(target=lambda: found.append(_problem(folder)), daemon=True)
    asking.start()
    asking.join(DISK_PATIENCE)
    return found[0] if found else None


def _problem(folder: Path) -> str | None:
    """What keeps us from writing to `folder`, made for us alone if it is not there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In a shared temporary folder somebody else may have made it first, to read what we write.
        if hasattr(os, "getuid") and folder.stat().st_uid not in {os.getuid(), 0}:
            return f"{folder} belongs to another user"
        with tempfile.TemporaryFile(dir=folder):
            return None
    except (OSError, ValueError) as error:  # ValueError: a null character
        return f"{folder}: {getattr(error, 'strerror', None) or error}"


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one setting at a time, from the arguments or else from the environment."""

    arguments: Mapping[str, object]
    environ: Mapping[str, str]

    def value(self, name: str) -> object | None:
        given = self.arguments.get(name)
        return given if given is not None else self.environ.get(f"{PREFIX}_{name.upper()}") or None

    def origin(self, name: str) -> str:
        """Where the value comes from, as an error should call it."""
        return name if self.arguments.get(name) is not None else f"{PREFIX}_{name.upper()}"

    def text(self, name: str) -> str | None:
        value = self.value(name)
        if value is None or isinstance(value, str | Path):
            return None if value is None else str(value)
        raise ConfigurationError(self.origin(name), value, "a text is expected")

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.value(name)
        word = str(default if value is None else value).strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise ConfigurationError(self.origin(name), value, "true or false is expected")

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self.value(name)
        if value is None:
            return allowed[0]
        if value in allowed:
            return str(value)
        raise ConfigurationError(
            self.origin(name), value, f"one of {', '.join(map(repr, allowed))} is expected"
        )

    def fraction(self, name: str, fallback: str) -> float:
        value, origin = self.value(name), self.origin(name)
        if value is None:
            value, origin = self.environ.get(fallback) or 1.0, fallback
        number = _number(origin, value)
        if 0.0 <= number <= 1.0:
            return number
        raise ConfigurationError(origin, value, "a share of the traces from 0 (none) to 1 (all) is expected")

    def seconds(self, name: str, *, default: float) -> float:
        value = self.value(name)
        number = _number(self.origin(name), default if value is None else value)
        if math.isfinite(number) and number >= 0:
            return number
        raise ConfigurationError(self.origin(name), value, "a number of seconds, 0 or more, is expected")

    def size(self, name: str, *, default: int) -> int:
        value = self.value(name)
        number = _number(self.origin(name), default if value is None else value)
        if number >= _MIB and math.isfinite(number):
            return int(number)
        raise ConfigurationError(
            self.origin(name), value, f"a number of bytes, at least {_MIB} (1 MiB), is expected"
        )

    def pairs(self, name: str) -> dict[str, str]:
        value = self.value(name)
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return {str(key): str(item) for key, item in value.items()}
        pairs = [pair.partition("=") for pair in value.split(",")] if isinstance(value, str) else []
        if pairs and all(key.strip() and equals for key, equals, _ in pairs):
            return {key.strip(): item.strip() for key, _, item in pairs}
        raise ConfigurationError(
            self.origin(name), value, "a mapping of names to values is expected (key=value,key=value)"
        )

    def redact(self) -> Redact:
        given = self.arguments.get("redact")
        if callable(given):
            return cast("Callable[[str], str]", given)
        if given is None or isinstance(given, bool):
            return self.boolean("redact", default=True)
        raise ConfigurationError("redact", given, "True, False or a function from text to text is expected")


def _number(origin: str, value: object) -> float:
    try:
        return float(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(origin, value, "a number is expected") from None
