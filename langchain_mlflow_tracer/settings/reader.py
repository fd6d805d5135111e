"""Reads one setting at a time, from arguments or else from the environment, and checks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.settings.options import FALSE, MIB, PREFIX, TRUE, Redact

__all__ = ["Reader"]


@dataclass(frozen=True, slots=True)
class Reader:
    """The settings in `arguments` (None stands for "not given") and `environ`.

    Raises:
        ConfigurationError: from every method, if the value is wrong; it names the argument or the variable.
    """

    arguments: Mapping[str, object]
    environ: Mapping[str, str]

    def value(self, name: str) -> object | None:
        """Return a setting unchecked; None if it is set nowhere."""
        argument = self.arguments.get(name)
        return argument if argument is not None else self.environ.get(f"{PREFIX}_{name.upper()}") or None

    def origin(self, name: str) -> str:
        """Return the name by which an error calls a setting: that of the argument, or of the variable."""
        return name if self.arguments.get(name) is not None else f"{PREFIX}_{name.upper()}"

    def wrong(self, name: str, expected: str) -> ConfigurationError:
        """Return the error for a setting that is not what was `expected`."""
        return ConfigurationError(self.origin(name), self.value(name), f"expected {expected}")

    def text(self, name: str) -> str | None:
        """Return a setting that is a string or a path."""
        value = self.value(name)
        if value is None or isinstance(value, str | Path):
            return None if value is None else str(value)
        raise self.wrong(name, "a string")

    def boolean(self, name: str, *, default: bool) -> bool:
        """Return a setting that is true or false, or a word for it."""
        value = self.value(name)
        word = str(default if value is None else value).strip().lower()
        if word in TRUE | FALSE:
            return word in TRUE
        raise self.wrong(name, "true or false")

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """Return a setting that is one of `allowed`; the first of them is the default."""
        value = self.value(name)
        if value is None:
            return allowed[0]
        if value in allowed:
            return str(value)
        raise self.wrong(name, f"one of {', '.join(map(repr, allowed))}")

    def fraction(self, name: str, fallback: str) -> float:
        """Return a setting from 0 to 1; the variable `fallback` is read where it is not set, then 1."""
        value, origin = self.value(name), self.origin(name)
        if value is None:
            value, origin = self.environ.get(fallback) or 1.0, fallback
        if 0.0 <= _number(origin, value) <= 1.0:
            return _number(origin, value)
        raise ConfigurationError(origin, value, "expected a share of the traces from 0 (none) to 1 (all)")

    def seconds(self, name: str, *, default: float) -> float:
        """Return a setting that is a number of seconds."""
        number = self._number(name, default)
        if math.isfinite(number) and number >= 0:
            return number
        raise self.wrong(name, "a number of seconds, 0 or more")

    def size(self, name: str, *, default: int) -> int:
        """Return a setting that is a number of bytes."""
        number = self._number(name, default)
        if math.isfinite(number) and number >= MIB:
            return int(number)
        raise self.wrong(name, f"a number of bytes, at least {MIB} (1 MiB)")

    def pairs(self, name: str) -> dict[str, str]:
        """Return a setting that is a mapping, or "key=value,key=value"."""
        value = self.value(name)
        if isinstance(value, Mapping):
            return {str(key): str(item) for key, item in value.items()}
        if value is None:
            return {}
        pairs = str(value).split(",")
        if isinstance(value, str) and all(pair.partition("=")[0].strip() and "=" in pair for pair in pairs):
            return {key.strip(): item.strip() for key, _, item in (pair.partition("=") for pair in pairs)}
        raise self.wrong(name, "a mapping of names to values (key=value,key=value)")

    def redact(self) -> Redact:
        """Return what masks secrets; a function can be given as an argument only."""
        argument = self.arguments.get("redact")
        if callable(argument):
            return cast("Callable[[str], str]", argument)
        if argument is None or isinstance(argument, bool):
            return self.boolean("redact", default=True)
        raise self.wrong("redact", "True, False or a function from string to string")

    def _number(self, name: str, default: float) -> float:
        value = self.value(name)
        return _number(self.origin(name), default if value is None else value)


def _number(origin: str, value: object) -> float:
    try:
        return float(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(origin, value, "expected a number") from None
