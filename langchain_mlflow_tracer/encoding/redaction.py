"""Masks secrets in text, and under the names of secrets in plain data, before anything rests on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeVar, cast

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.encoding.attachment_reference import is_reference
from langchain_mlflow_tracer.encoding.scan import TraceScan
from langchain_mlflow_tracer.encoding.secret_patterns import (
    KEY_WORDS,
    PATTERNS,
    SECRET_WORDS,
    TOKEN_WORDS,
    Pattern,
)
from langchain_mlflow_tracer.settings.options import Redact

__all__ = ["MASK", "Redactor"]

MASK: Final = "[REDACTED]"

WITHHELD: Final = "[WITHHELD: the redact function failed]"
"""What stands for a text that the user's function did not return: when in doubt, nothing leaves."""

KEYS_KNOWN: Final = 4096
"""Keys whose judgement is remembered: a program has hundreds, and asks for them with every trace."""

LONG: Final = 1024
"""Characters from which a text is remembered only until its trace is done."""

TEXTS_KNOWN: Final = 1024
"""Shorter texts that are remembered to hold no secret, a million characters at most: names, types and
instructions are in every trace, and only what is new in it is searched."""

_NAMES: Final = (
    f"{'|'.join(SECRET_WORDS)}|(?:{'|'.join(KEY_WORDS)})[-_. ]?key|(?:{'|'.join(TOKEN_WORDS)})[-_. ]?token"
    "|connection[-_. ]?string"
)
_SECRET_NAME: Final = re.compile(rf"(?:^|[-_. ])(?:{_NAMES})s?$", re.IGNORECASE)
_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

# Where the name is `token` alone: nobody issues shorter ones, or such with spaces.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=:\-]{16,}")

_SCHEMA_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "object", "array"})


T = TypeVar("T")


class Redactor:
    """Masks what must not leave: the built-in patterns first, then the user's own function."""

    def __init__(self, redact: Redact = True) -> None:  # noqa: FBT002 - the setting itself
        """Take the setting: True, False, or a function from text to text."""
        self._active = redact is not False
        self._function = redact if callable(redact) else None
        self._key = lru_cache(KEYS_KNOWN)(self._without_secrets)
        self._harmless: set[str] = set()
        self._clean: set[str] = set()
        self._long: dict[str, str] = {}
        self._done: dict[int, tuple[object, object]] = {}
        self._patterns: Sequence[Pattern] = PATTERNS

    def text(self, text: str) -> str:
        """Return `text` with its secrets masked, or a note instead where the user's function failed."""
        if not self._active:
            return text
        if len(text) < LONG:
            return self._without_secrets(text, self._patterns)
        if text not in self._long:
            self._long[text] = self._without_secrets(text, self._patterns)
        return self._long[text]

    def looks_for(self, scan: TraceScan) -> bool:
        """Return whether anything of a trace may have to be masked, given all that it holds.

        Most traces hold no word that a secret has beside it. Of the others, texts are searched for those
        kinds of secrets only whose hints the trace holds, until `forget`.
        """
        self.forget()
        if not self._active or self._function is not None:
            return self._active
        self._patterns = self._hinted(scan.texts - self._clean)
        return bool(self._patterns) or not scan.is_plain or not self._are_harmless(scan.keys)

    def forget(self) -> None:
        """Forget the values of a trace. Within one, spans often share them, so each is masked once."""
        self._long.clear()
        self._done.clear()
        self._patterns = PATTERNS

    def _hinted(self, texts: set[str]) -> Sequence[Pattern]:
        """Return the patterns that these texts hold a hint of; where there are none, remember the texts."""
        lowered = "\n".join(texts).lower()
        found = [pattern for pattern in PATTERNS if pattern.hint in lowered]
        if not found:
            self._remember([text for text in texts if len(text) < LONG][:TEXTS_KNOWN])
        return found

    def _remember(self, texts: Sequence[str]) -> None:
        if len(self._clean) + len(texts) > TEXTS_KNOWN:
            self._clean.clear()  # those of every trace are soon back
        self._clean.update(texts)

    def _are_harmless(self, keys: set[str]) -> bool:
        return keys <= self._harmless or all(map(self._is_harmless, keys))

    def _is_harmless(self, key: str) -> bool:
        """Whether a key neither has a secret in it nor may be the name of one."""
        if key in self._harmless:
            return True
        if any(_known_name(key)) or _by_patterns(key, PATTERNS) != key:
            return False
        if len(self._harmless) < KEYS_KNOWN:
            self._harmless.add(key)
        return True

    def _without_secrets(self, text: str, patterns: Sequence[Pattern] = PATTERNS) -> str:
        text = _by_patterns(text, patterns)
        return text if self._function is None else self._by_user(text, self._function)

    def value(self, value: T) -> T:
        """Return plain data with every text masked, and every value under the name of a secret."""
        return cast("T", self._value(value)) if self._active else value

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return value if is_reference(value) else self.text(value)
        if isinstance(value, dict | list):
            if id(value) not in self._done:  # kept with the value: after it is freed, its id may be reused
                self._done[id(value)] = value, self._container(value)
            return self._done[id(value)][1]
        if value is None or isinstance(value, int | float):
            return value
        # A stack, printed only now: it has not been searched for secrets yet.
        return self._without_secrets(attempt(lambda: str(value), lambda _: WITHHELD))

    def _container(self, value: dict[str, object] | list[object]) -> object:
        if isinstance(value, list):
            return [self._value(item) for item in value]
        masked = self._mapping(value)
        return masked if type(value) is dict else type(value)(masked)

    def _mapping(self, value: Mapping[str, object]) -> dict[str, object]:
        masked: dict[str, object] = {}
        is_logprob = "logprob" in value  # beside it, a `token` is a piece of text
        for key, item in value.items():
            name = self._key(key)
            if name in masked:  # two keys that were different secrets
                name = f"{name} ({len(masked)})"
            secret = _names_a_secret(key, item) and not (is_logprob and key == "token")
            masked[name] = MASK if secret else self._value(item)
        return masked

    @staticmethod
    def _by_user(text: str, function: Callable[[str], str]) -> str:
        masked: object = attempt(lambda: function(text), lambda _: WITHHELD)
        return masked if isinstance(masked, str) else WITHHELD


def _by_patterns(text: str, patterns: Sequence[Pattern]) -> str:
    if not patterns:
        return text
    lowered = text.lower()
    for pattern in patterns:
        if pattern.hint in lowered:
            for regex in pattern.regexes:
                text = regex.sub(_masked, text)
    return text


def _masked(match: re.Match[str]) -> str:
    start, end = match.span(match.lastindex or 0)
    text = match.string
    return text[match.start() : start] + MASK + text[end : match.end()]


def _names_a_secret(key: str, item: object) -> bool:
    """Whether what stands under `key` is a secret: `password`, `clientSecret`, `x-api-key` and the like."""
    is_secret, is_token = _known_name(key)
    if is_secret:
        return item not in (None, "", [], {}, True, False) and not _is_schema(item)
    return is_token and isinstance(item, str) and _TOKEN.fullmatch(item) is not None


@lru_cache(maxsize=KEYS_KNOWN)
def _known_name(key: str) -> tuple[bool, bool]:
    """Return whether a key names a secret, and whether it only may: `token` also names words."""
    return _SECRET_NAME.search(_HUMPS.sub("_", key)) is not None, key.lower().endswith("token")


def _is_schema(item: object) -> bool:
    """Whether it describes a parameter of a tool, rather than being the value of one."""
    return isinstance(item, dict) and (item.get("type") in _SCHEMA_TYPES or "$ref" in item or "anyOf" in item)
