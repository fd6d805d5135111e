"""Masks secrets in text, and under the names of secrets in plain data, before anything rests on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar, cast

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.encoding.attachment_reference import is_reference
from langchain_mlflow_tracer.encoding.scan import Contents
from langchain_mlflow_tracer.settings.settings import Redact

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

_WORDS: Final = (
    "password", "passwd", "passphrase", "pwd", "secret", "credential", "authorization", "cookie",
)  # fmt: skip
# What makes a `key` or a `token` a secret: by themselves they name anything.
_KEYS: Final = ("api", "secret", "access", "account", "private", "subscription")
_TOKENS: Final = ("access", "refresh", "id", "auth", "bearer")

_NAMES: Final = (
    f"{'|'.join(_WORDS)}|(?:{'|'.join(_KEYS)})[-_. ]?key|(?:{'|'.join(_TOKENS)})[-_. ]?token"
    "|connection[-_. ]?string"
)
_SECRET_NAME: Final = re.compile(rf"(?:^|[-_. ])(?:{_NAMES})s?$", re.IGNORECASE)
_HUMPS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

# Where the name is `token` alone: nobody issues shorter ones, or such with spaces.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=:\-]{16,}")

_SCHEMA_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "object", "array"})


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of secret. Its `regexes` run only over texts that hold `hint`, in any case: cheap to see.

    The last group that matched is the secret; where there is none, the whole match is.
    """

    hint: str
    regexes: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, hint: str, *regexes: str) -> Pattern:
        return cls(hint.lower(), tuple(re.compile(regex) for regex in regexes))


# A regex starts with its literal, so that the engine skips to it, and looks back from there. None reads a
# text twice: lookaheads are bounded, and what may be long begins in one place only. Whoever writes a prompt
# must not be able to hold up the process that records it. No possessive quantifier and no atomic group is in
# any: before Python 3.11.5 they match wrongly beside a lookahead, and Debian 12 has 3.11.2.

_A_DIGIT: Final = r"(?=[A-Za-z._~+/=\-]{0,64}[0-9])"


def _issued(prefix: str, body: str, word: str = "A-Za-z0-9") -> Pattern:
    """A secret that its issuer made recognisable; `sk-` in the middle of a word, as in `task-…`, is none."""
    # After an escape, in JSON text or a URL, the letters before it are no word.
    starts = rf"(?:(?<![{word}]{prefix})|(?<=\\[nrt]{prefix})|(?<=%[0-9A-Fa-f]{{2}}{prefix}))"
    return Pattern.of(prefix, prefix + starts + body)


def _cased(word: str, tail: str) -> Pattern:
    """A secret behind `word`, which people write in three ways."""
    return Pattern.of(word, *(spelled + tail for spelled in (word, word.capitalize(), word.upper())))


def _named(word: str, before: tuple[str, ...], values: str) -> Pattern:
    """A value behind a name that ends in `word`: `"api_key": "…"`, `Password=…;`, `x-api-key: …`."""
    sought = "|".join(f"(?<={start}{gap}{word})" for start in before for gap in ("", "[-_. ]"))
    return _cased(word, rf"(?i:{sought})s?(?:\\*[\"'])?\s?(?:{values})")


_QUOTED: Final = r"[=:]\s{0,2}[bru]?(\\*[\"'])((?:(?!\1)(?:\\.|[^\\\n])){1,8192})"
"""A text in quotes, up to the same quotes; a line that never closes them is no reason to mask a page."""

_ASSIGNED: Final = r"=\s?(?!(?:None|True|False|null)\b|os\.|getenv|/)([^\s;\"',&]{3,})"
"""`Password=…` in a connection string, a query or an environment; code that reads it elsewhere is shown."""

_TOLD: Final = rf":\s?{_A_DIGIT}([^\s;\"',&]{{6,}})"
"""`password: …` as in YAML or a log; prose seldom has digits there."""

_ANY_VALUE: Final = f"{_QUOTED}|{_ASSIGNED}|{_TOLD}"

_ONE_COOKIE: Final = r":\s?[\"']?((?=[^\s;=\"']{1,256}=)[^\"'\n\\]{6,})"

_LONG_VALUE: Final = rf"[=:,]\s?(?:\\*[\"'])?{_A_DIGIT}(?![0-9]+\b)([A-Za-z0-9._~+/=\-]{{16,}})"
"""What stands behind a name that only may be a secret's, or beside it in a list of pairs."""

_KEY_LINES: Final = r"(?:[^-]*--{0,3}(?!-)){0,1000}[^-]*"
"""A text up to five hyphens. Fewer may be in it 1000 times, as in `Proc-Type:` or a patch that removes a key.
Python takes 200 bytes of memory each time; the largest keys in use have 200 lines."""

PATTERNS: Final = (
    _issued("sk-", rf"{_A_DIGIT}[A-Za-z0-9_\-]{{20,}}"),  # OpenAI, Anthropic, OpenRouter, DeepSeek
    _issued("sk_live_", r"[A-Za-z0-9]{20,}"),  # Stripe
    _issued("gsk_", r"[A-Za-z0-9]{20,}"),  # Groq
    _issued("xai-", rf"{_A_DIGIT}[A-Za-z0-9]{{20,}}"),
    _issued("pplx-", rf"{_A_DIGIT}[A-Za-z0-9]{{20,}}"),  # Perplexity
    _issued("tvly-", rf"{_A_DIGIT}[A-Za-z0-9\-]{{20,}}"),  # Tavily
    _issued("hf_", r"[A-Za-z0-9]{30,}"),  # Hugging Face
    _issued("lsv2_", r"[a-z]{2}_[A-Za-z0-9_]{20,}"),  # LangSmith
    _issued("dapi", r"[a-f0-9]{32}(?:-[0-9]+)?"),  # Databricks
    *(_issued(prefix, r"[A-Za-z0-9]{20,}") for prefix in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),  # GitHub
    _issued("github_pat_", r"[A-Za-z0-9_]{20,}"),
    _issued("glpat-", r"[A-Za-z0-9_\-]{20,}"),  # GitLab
    _issued("xox", r"[abposr]-[A-Za-z0-9\-]{10,}"),  # Slack
    *(_issued(prefix, r"[A-Z0-9]{16}(?![A-Za-z0-9])") for prefix in ("AKIA", "ASIA")),  # AWS
    _issued("AIza", r"[A-Za-z0-9_\-]{35}"),  # Google
    # Azure marks its newer keys in their middle (Common Annotated Security Keys).
    Pattern.of("JQQJ9", r"[A-Za-z0-9]{52}JQQJ9[A-Za-z0-9]{27}(?:[A-Za-z0-9]{2}==)?"),
    _issued("eyJ", r"[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8}[A-Za-z0-9_\-.]*", r"A-Za-z0-9_\-"),
    # A private key up to its end, or as far as it looks like one where it was cut.
    Pattern.of("-----BEGIN ", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        rf"(?:{_KEY_LINES}-----END [A-Z ]{{0,40}}PRIVATE KEY(?: BLOCK)?-----|[\w+/=\\\s]*)"),
    _cased("bearer", rf" {{1,9}}(?:{_A_DIGIT}([A-Za-z0-9._~+/=\-]{{8,}})|([A-Za-z0-9._~+/=\-]{{32,}}))"),
    # Base64 has digits, padding or capitals within; "basic understanding" has not.
    _cased("basic", r" {1,9}(?=[A-Za-z+/]{0,64}(?:[0-9=]|[a-z][A-Z]))"
        r"((?:[A-Za-z0-9+/]{4}){2,}(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==))(?![A-Za-z0-9+/=])"),
    Pattern.of("://", r"://[^\s/:@\"']*:([^\s/\"']+)@"),  # a password in a URL
    Pattern.of("sig=", r"sig=(?<![A-Za-z0-9]sig=)([A-Za-z0-9%+/=]{16,})"),  # Azure shared access
    *(_named(word, ("",), _ANY_VALUE) for word in _WORDS),
    _named("cookie", ("",), _ONE_COOKIE),
    _named("key", _KEYS, f"{_ANY_VALUE}|{_LONG_VALUE}"),
    _named("token", _TOKENS, _ANY_VALUE),
    _named("token", ("",), _LONG_VALUE),
    _named("string", ("connection",), _ANY_VALUE),
)  # fmt: skip

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

    def looks_for(self, contents: Contents) -> bool:
        """Return whether anything of a trace may have to be masked, given all that it holds.

        Most traces hold no word that a secret has beside it. Of the others, texts are searched for those
        kinds of secrets only whose hints the trace holds, until `forget`.
        """
        self.forget()
        if not self._active or self._function is not None:
            return self._active
        self._patterns = self._hinted(contents.texts - self._clean)
        return bool(self._patterns) or not contents.is_plain or not self._are_harmless(contents.keys)

    def forget(self) -> None:
        """Let go of a trace: what one span of it was given, the next ones often are too."""
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
            if id(value) not in self._done:  # with the value: else its identity may be another's soon
                self._done[id(value)] = value, self._container(value)
            return self._done[id(value)][1]
        if value is None or isinstance(value, int | float):
            return value
        # A stack, printed only now, so that nobody has looked through it.
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
