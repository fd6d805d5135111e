"""Masks secrets in text, and under the names of secrets in plain data, before anything rests on disk."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar, cast

from langchain_mlflow_tracer.foreign import attempt
from langchain_mlflow_tracer.settings import Redact

__all__ = ["MASK", "Redactor"]

MASK: Final = "[REDACTED]"

WITHHELD: Final = "[WITHHELD: the redact function failed]"
"""What stands for a text that the user's function did not return: when in doubt, nothing leaves."""

SHORTEST_TOKEN: Final = 16
"""Characters below which a value named `token` is a word or a number: no issuer makes shorter ones."""

_NAMES: Final = (
    r"passw(?:or)?d|passphrase|pwd|secret|client[-_ ]?secret|secret[-_ ]?key|api[-_ ]?key|apikey|access[-_ ]?key"
    r"|account[-_ ]?key|shared[-_ ]?access[-_ ]?key|private[-_ ]?key|subscription[-_ ]?key|access[-_ ]?token"
    r"|refresh[-_ ]?token|id[-_ ]?token|auth[-_ ]?token|bearer[-_ ]?token|connection[-_ ]?string|credentials?"
    r"|authorization|set[-_ ]?cookie|cookie"
)
_SECRET_NAME: Final = re.compile(rf"(?:^|[-_. ])(?:{_NAMES})$", re.IGNORECASE)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of secret: `regex` runs only over texts that hold one of `hints`, which is cheap to see.

    Where the regex has a group, the group is the secret, else the whole match is.
    """

    name: str
    hints: tuple[str, ...]
    regex: re.Pattern[str]


def _masked(match: re.Match[str]) -> str:
    whole = match[0]
    if not match.re.groups:
        return MASK
    start, end = match.start(1) - match.start(), match.end(1) - match.start()
    return whole[:start] + MASK + whole[end:]


# Each regex starts with a literal where it can: the engine then skips to it, and 10 MB take milliseconds.
PATTERNS: Final = (
    Pattern("OpenAI, Anthropic and similar keys", ("sk-",), re.compile(r"sk-[A-Za-z0-9_\-]{20,}")),
    Pattern("LangSmith keys", ("lsv2_",), re.compile(r"lsv2_[a-z]{2}_[A-Za-z0-9_]{20,}")),
    Pattern("GitHub tokens", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"gh[pousr]_[A-Za-z0-9]{20,}")),
    Pattern("GitHub fine-grained tokens", ("github_pat_",), re.compile(r"github_pat_[A-Za-z0-9_]{20,}")),
    Pattern("Hugging Face tokens", ("hf_",), re.compile(r"hf_[A-Za-z0-9]{30,}")),
    Pattern("Slack tokens", ("xox",), re.compile(r"xox[abposr]-[A-Za-z0-9\-]{10,}")),
    Pattern("AWS access key ids", ("AKIA", "ASIA"), re.compile(r"A(?:KIA|SIA)[A-Z0-9]{16}\b")),
    Pattern("Google API keys", ("AIza",), re.compile(r"AIza[A-Za-z0-9_\-]{35}")),
    Pattern("Databricks tokens", ("dapi",), re.compile(r"dapi[a-f0-9]{32}(?:-\d+)?")),
    Pattern("JSON web tokens", ("eyJ",), re.compile(r"eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?")),
    Pattern("private keys", ("-----BEGIN ",),
            re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)),
    Pattern("bearer tokens", ("earer ", "EARER "), re.compile(r"(?:Bearer|bearer|BEARER) +([A-Za-z0-9._~+/=\-]{8,})")),
    Pattern("basic authorization", ("asic ",), re.compile(r"(?:Basic|basic) +([A-Za-z0-9+/]{12,}={0,2})(?![A-Za-z0-9])")),
    Pattern("passwords in URLs", ("://",), re.compile(r"://[^\s/:@\"']*:([^\s/@\"']+)@")),
    Pattern("signatures of Azure shared access", ("sig=",), re.compile(r"\bsig=([A-Za-z0-9%+/=]{16,})")),
    Pattern("connection strings and assignments", ("=",),
            re.compile(rf"\b(?:{_NAMES})\s?=\s?[\"']?([^\s;\"',&]{{3,}})", re.IGNORECASE)),
    Pattern("secrets in JSON text", ('":', '" :', "':"),
            re.compile(rf"[\"'](?:[\w.\-]*[-_.])?(?:{_NAMES})\\?[\"']\s?:\s?\\?[\"']((?:[^\"'\\]|\\(?![\"'])|(?<=\\)\\.)+)", re.IGNORECASE)),
    Pattern("keys in headers", ("api-key", "Api-Key", "API-KEY", "x-api-key"),
            re.compile(r"api-key[\"']?\s?:\s?[\"']?([A-Za-z0-9._~+/=\-]{8,})", re.IGNORECASE)),
)  # fmt: skip

_BY_HINT: Final = tuple((hint, pattern.regex) for pattern in PATTERNS for hint in pattern.hints)

KEYS_KNOWN: Final = 4096
"""Keys whose judgement is remembered: a program has hundreds, and asks for them with every trace."""

T = TypeVar("T")


class Redactor:
    """Masks what must not leave: the built-in patterns first, then the user's own function."""

    def __init__(self, redact: Redact = True) -> None:
        """Take the setting: True, False, or a function from text to text."""
        self._active = redact is not False
        self._function = redact if callable(redact) else None

    def text(self, text: str) -> str:
        """Return `text` with its secrets masked, or a note instead where the user's function failed."""
        if not self._active:
            return text
        text = _by_patterns(text)
        return text if self._function is None else self._by_user(text, self._function)

    def value(self, value: T) -> T:
        """Return plain data with every text masked, and every value under the name of a secret."""
        return cast("T", self._value(value)) if self._active else value

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            masked = {self._key(key): self._item(key, item) for key, item in value.items()}
            return masked if type(value) is dict else type(value)(masked)
        if isinstance(value, list):
            return [self._value(item) for item in value]
        return value

    def _key(self, key: str) -> str:
        return _known_key(key)[0] if self._function is None else self.text(key)

    def _item(self, key: str, item: object) -> object:
        return MASK if _names_a_secret(key, item) else self._value(item)

    @staticmethod
    def _by_user(text: str, function: Callable[[str], str]) -> str:
        masked: object = attempt(lambda: function(text), lambda _: WITHHELD)
        return masked if isinstance(masked, str) else WITHHELD


def _by_patterns(text: str) -> str:
    for hint, regex in _BY_HINT:
        if hint in text:
            text = regex.sub(_masked, text)
    return text


def _names_a_secret(key: str, item: object) -> bool:
    """Whether what stands under `key` is a secret: `password`, `clientSecret`, `x-api-key` and the like."""
    _, is_secret, is_token = _known_key(key)
    if is_token:
        return isinstance(item, str) and len(item) >= SHORTEST_TOKEN
    return is_secret and item is not None and not isinstance(item, bool) and item not in ("", [], {})


@lru_cache(maxsize=KEYS_KNOWN)
def _known_key(key: str) -> tuple[str, bool, bool]:
    """Return a key masked, whether it names a secret, and whether it only may: `token` also names words."""
    is_secret = _SECRET_NAME.search(_CAMEL.sub("_", key)) is not None
    return _by_patterns(key), is_secret, not is_secret and key.lower().endswith("token")
